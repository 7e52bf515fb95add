//! Judges a batch of appends against what the log holds: pure, in order of arrival, each over the tentative effects of
//! those before it. Idempotency comes before concurrency control; numbers have no gap (I2, I3, I4).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::view::{EventAt, advance};
use super::{Append, AppendError, Expected, Record};
use crate::domain::{Aggregate, Digest, EventKind, Sequence};
use crate::port::index::{EventRow, Head};

/// An append on its way through the committer.
#[derive(Debug)]
pub(super) struct Request {
    pub append: Append,
    /// Taken when it is answered.
    pub reply: Option<oneshot::Sender<Answer>>,
    /// Appends of one `append_all`, and which of them this is.
    pub group: Arc<Group>,
    pub member: usize,
    /// The member before it to the same aggregate.
    pub previous: Option<usize>,
}

/// What the members of one `append_all` need of each other: the sequence of the last event each wrote, 0 before.
#[derive(Debug)]
pub(super) struct Group {
    pub written: Vec<AtomicU64>,
}

/// What the committer tells the caller.
#[derive(Debug)]
pub(super) enum Answer {
    Written(Vec<Record>),
    /// An earlier request of the same batch was the same and is written.
    Same(Vec<Record>),
    /// The id exists.
    Known(Known),
    Refused(AppendError),
}

/// A stored event, wherever it was found.
#[derive(Debug, Clone)]
pub(super) enum Known {
    Memory(EventAt),
    Row(EventRow),
}

impl Known {
    fn content(&self) -> (EventKind, Option<Digest>, Option<Uuid>, &Aggregate) {
        match self {
            Known::Memory(at) => {
                let event = &at.segment.events[at.index];
                (event.kind, event.fingerprint, event.command_id, &event.aggregate)
            }
            Known::Row(row) => (row.kind, row.fingerprint, row.command_id, &row.aggregate),
        }
    }
}

impl Request {
    /// The id that tells whether the append was done before: of a command its own, of an outcome that of its first
    /// event, since outcomes are written whole.
    pub(super) fn id(&self) -> Uuid {
        self.append.drafts[0].event_id
    }

    /// Whether the id may be in the log, given the head there. The outcome of a command has greater numbers than the
    /// command: without a domain event after it there is none.
    pub(super) fn may_exist(&self, head: Option<Head>) -> bool {
        if self.append.ids_are_new {
            return false;
        }
        match (self.append.outcome_of, head) {
            (Some(command), Some(head)) => head.last_domain > command,
            _ => true,
        }
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // A caller that went away does not want to know.
            let _gone = reply.send(answer);
        }
    }

    pub(super) fn refuse(&mut self, error: AppendError) {
        self.answer(Answer::Refused(error));
    }
}

/// What is known of the log for one batch.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Heads at the end, for every aggregate of the batch.
    pub heads: HashMap<Aggregate, Head>,
    /// Those ids of the batch that the log holds.
    pub ids: HashMap<Uuid, Known>,
}

/// What is to become of a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Its events are `count` entries of [`Judged::events`], from `first` on.
    Write {
        first: usize,
        count: usize,
    },
    /// It is in the log.
    Known(Known),
    /// It is the same as an earlier request of the batch.
    Twin(usize),
    Refuse(AppendError),
}

/// A judged batch.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// One for each request.
    pub verdicts: Vec<Verdict>,
    /// What the segment will hold: request, draft, number.
    pub events: Vec<(usize, usize, Sequence)>,
    /// Heads after the segment of the aggregates it touches.
    pub heads: HashMap<Aggregate, Head>,
}

/// Judges every request of a batch.
pub(super) fn judge(batch: &[Request], facts: &Facts) -> Judged {
    let mut judged = Judged::default();
    let mut tentative: HashMap<Uuid, usize> = HashMap::new();
    for (index, request) in batch.iter().enumerate() {
        let verdict = judged.judge(index, request, batch, facts, &mut tentative);
        judged.verdicts.push(verdict);
    }
    judged
}

impl Judged {
    fn judge(
        &mut self,
        index: usize,
        request: &Request,
        batch: &[Request],
        facts: &Facts,
        tentative: &mut HashMap<Uuid, usize>,
    ) -> Verdict {
        let append = &request.append;
        let draft = &append.drafts[0];
        let mismatch = || Verdict::Refuse(AppendError::Mismatch { event_id: draft.event_id });
        if let Some(known) = facts.ids.get(&draft.event_id) {
            let (kind, fingerprint, command_id, aggregate) = known.content();
            let same = kind == draft.kind && aggregate == &append.aggregate && command_id == draft.command_id;
            return if same && fingerprint == draft.fingerprint { Verdict::Known(known.clone()) } else { mismatch() };
        }
        if let Some(twin) = tentative.get(&draft.event_id) {
            let other = &batch[*twin].append;
            let same = other.aggregate == append.aggregate && other.drafts[0].fingerprint == draft.fingerprint;
            return if same && other.drafts[0].kind == draft.kind { Verdict::Twin(*twin) } else { mismatch() };
        }
        let before = self.heads.get(&append.aggregate).or_else(|| facts.heads.get(&append.aggregate));
        let mut head = before.copied().unwrap_or_default();
        if let Err(refused) = self.expect(request, &head, batch) {
            return Verdict::Refuse(refused);
        }
        let first = self.events.len();
        for (place, draft) in append.drafts.iter().enumerate() {
            let sequence = Sequence(head.last.0 + 1);
            advance(&mut head, draft.kind, draft.command_id, sequence);
            self.events.push((index, place, sequence));
            tentative.insert(draft.event_id, index);
        }
        self.heads.insert(append.aggregate.clone(), head);
        Verdict::Write { first, count: append.drafts.len() }
    }

    /// Whether the expectation holds at this head.
    fn expect(&self, request: &Request, head: &Head, batch: &[Request]) -> Result<(), AppendError> {
        let append = &request.append;
        let conflict = |expected: Option<u64>| {
            let actual = head.last.0;
            Err(AppendError::Conflict { aggregate: append.aggregate.clone(), expected, actual })
        };
        if let Some(command) = append.outcome_of
            && (command == Sequence(0) || command > head.last_command)
        {
            return Err(AppendError::Malformed { reason: "the outcome of a command that is not in the log" });
        }
        match append.expected {
            Expected::Any => Ok(()),
            Expected::Missing => conflict(None),
            Expected::Client(expected) if client_is_right(expected, head) => Ok(()),
            Expected::Client(expected) => conflict(Some(expected)),
            Expected::LastDomain(expected) if expected == head.last_domain => Ok(()),
            Expected::LastDomain(expected) => conflict(Some(expected.0)),
            Expected::Exactly(expected) if expected == head.last => Ok(()),
            Expected::Exactly(expected) => conflict(Some(expected.0)),
            Expected::Chained => match self.previous(request, batch) {
                Some(previous) if previous == head.last_domain => Ok(()),
                previous => conflict(previous.map(|sequence| sequence.0)),
            },
        }
    }

    /// Sequence of the last event that the request before it in its group wrote, in this batch or an earlier one.
    fn previous(&self, request: &Request, batch: &[Request]) -> Option<Sequence> {
        let previous = request.previous?;
        let written = request.group.written.get(previous)?.load(Ordering::Relaxed);
        if written > 0 {
            return Some(Sequence(written));
        }
        let place = batch
            .iter()
            .take(self.verdicts.len())
            .position(|other| Arc::ptr_eq(&other.group, &request.group) && other.member == previous)?;
        match self.verdicts[place] {
            Verdict::Write { first, count } => Some(self.events[first + count - 1].2),
            _ => None,
        }
    }
}

/// The rule for `expected_seq` (contract §2): right when it is the last sequence, or that of the last command when only
/// outcomes of the stream's own commands follow it.
fn client_is_right(expected: u64, head: &Head) -> bool {
    let expected = Sequence(expected);
    expected == head.last
        || (expected > Sequence(0) && expected == head.last_command && head.last_foreign < head.last_command)
}
