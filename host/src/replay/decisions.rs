//! Decides stored commands again: the handler whose digest the outcome names, on the state before the outcome and on
//! the states that its `read_set` names, with the command's own time and seed. Whatever the handler says must be what
//! is stored, to the byte. An outcome that no handler made, or that a limit ended, is not judged: fuel differs
//! between engine versions (I8).

use std::sync::Arc;

use super::Error;
use super::streams::{Load, Streams};
use crate::codec::envelope::{HandlerRef, ReadRef};
use crate::codec::fingerprint;
use crate::domain::{Aggregate, Sequence, derived_id, event_type};
use crate::event_store::{EventStore, Record};
use crate::sandbox::{AggregateRef, CallContext, Command, Failure, Handler, ReadValue, Verdict};
use crate::state::call_guests;
use crate::state::outcome::recorded;

/// Rounds of `needs`, as the worker allows them.
const NEEDS_ROUNDS_MAX: usize = 8;
/// Version of a state that does not exist.
const ABSENT_VERSION: &str = "1.0.0";

/// What deciding a command again gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    Same,
    /// Something else than what is stored: the code, and the words.
    Differs {
        code: &'static str,
        message: String,
    },
    /// Nothing that a handler decided, or nothing that can be decided again.
    NotJudged(&'static str),
}

/// A state that a decision read.
struct Read {
    aggregate: Aggregate,
    sequence: u64,
    schema_version: Arc<str>,
    state: Option<String>,
}

/// Everything that goes into one decision, owned, so that it can move to where guests run.
struct Case {
    handler: Arc<Handler>,
    command: Record,
    state: Option<String>,
    reads: Vec<Read>,
}

/// What a decision gave the second time.
enum Decided {
    Verdict(Verdict),
    Differs { code: &'static str, message: String },
    Failed(Failure),
}

/// Decides commands of one log again.
pub struct Decisions {
    streams: Streams,
}

impl Decisions {
    pub fn new(events: EventStore, load: Load) -> Decisions {
        Decisions { streams: Streams::new(events, load) }
    }

    /// Decides a command again and compares. An error is one of the parts, or of a component that is gone.
    pub async fn again(&mut self, command: &Record) -> Result<Again, Error> {
        let outcome = self.streams.events().outcome(command.event_id).await?;
        let Some(first) = outcome.first() else { return Ok(Again::NotJudged("it is not decided yet")) };
        let (handler, read_set, issued) = made_with(&outcome)?;
        let Some(handler) = handler else { return Ok(Again::NotJudged("the host or an operator made its outcome")) };
        let envelope = command.envelope()?;
        let expected = envelope.command()?.expected_seq;
        let before = Sequence(first.sequence.0.saturating_sub(1));
        let folded = self.streams.at(&command.aggregate, handler.digest, &handler.upcasters, before, expected).await?;
        let folded = match (folded, is_predecessor_failed(first)?) {
            (Some(folded), false) => folded,
            (None, true) => return Ok(Again::Same),
            (Some(_), true) | (None, false) => {
                let words = "its outcome disagrees with its predecessor's about failing";
                return Ok(differs("predecessor_differs", words));
            }
        };
        let mut reads = Vec::with_capacity(read_set.len());
        for read in &read_set {
            reads.push(self.read(read).await?);
        }
        let case = Case {
            handler: self.streams.handler(handler.digest).await?,
            command: command.clone(),
            state: folded.state.map(|state| state.as_str().to_owned()),
            reads,
        };
        match call_guests(case, |case| case.decide()).await.1? {
            Decided::Verdict(verdict) => self.compare(command, &verdict, &outcome, issued).await,
            Decided::Differs { code, message } => Ok(Again::Differs { code, message }),
            Decided::Failed(Failure::Limit { .. }) => Ok(Again::NotJudged("a limit ends it")),
            Decided::Failed(failure) => Ok(differs("fails_again", format!("the handler fails now: {failure}"))),
        }
    }

    async fn read(&mut self, read: &ReadRef) -> Result<Read, Error> {
        let wrong = |error| crate::codec::Error::Envelope { reason: format!("a read set names no aggregate: {error}") };
        let aggregate = Aggregate::parse(&read.aggregate_type, &read.aggregate_id).map_err(wrong)?;
        let absent =
            Read { aggregate: aggregate.clone(), sequence: 0, schema_version: ABSENT_VERSION.into(), state: None };
        let Some(digest) = read.handler_digest.filter(|_| read.sequence_number.0 > 0) else { return Ok(absent) };
        let last = read.sequence_number;
        let folded = self.streams.at(&aggregate, digest, &read.upcasters, last, None).await?;
        let folded = folded.expect("what relies on nothing relies on nothing that failed");
        let state = folded.state.map(|state| state.as_str().to_owned());
        Ok(Read { sequence: last.0, schema_version: folded.schema_version, state, ..absent })
    }

    async fn compare(
        &self,
        command: &Record,
        verdict: &Verdict,
        outcome: &[Record],
        issued: usize,
    ) -> Result<Again, Error> {
        let again = recorded(command.event_id, verdict)?;
        if again.len() != outcome.len() {
            return Ok(differs("count_differs", format!("{} events now, {} stored", again.len(), outcome.len())));
        }
        for (index, (now, stored)) in again.iter().zip(outcome).enumerate() {
            let envelope = stored.envelope()?;
            if now.name != &*stored.event_type || now.schema_version != envelope.schema_version {
                let message = format!(
                    "event {index} is {} {} now, {} {} stored",
                    now.name, now.schema_version, stored.event_type, envelope.schema_version
                );
                return Ok(differs("event_differs", message));
            }
            if now.data.as_str() != envelope.data.get() {
                let message = format!("event {index} ({}) has other data now than stored", now.name);
                return Ok(differs("data_differs", message));
            }
        }
        let commands = match verdict {
            Verdict::Accepted(outcome) => outcome.commands.as_slice(),
            Verdict::Unchanged | Verdict::Rejected(_) => &[],
        };
        if commands.len() != issued {
            return Ok(differs("issued_differs", format!("{} commands issued now, {issued} stored", commands.len())));
        }
        let ids: Vec<_> = (0..issued).map(|index| derived_id::issued_command(command.event_id, index)).collect();
        let stored = self.streams.events().find(&ids).await?;
        for (index, (now, stored)) in commands.iter().zip(stored).enumerate() {
            let content = fingerprint::command(&now.name, &now.target, now.expected_seq, &now.payload);
            if stored.and_then(|stored| stored.fingerprint) != Some(content) {
                return Ok(differs("issued_differs", format!("issued command {index} is not the one stored")));
            }
        }
        Ok(Again::Same)
    }
}

impl Case {
    /// The rounds of the worker, with what was read then. Runs a guest.
    fn decide(&self) -> Result<Decided, crate::codec::Error> {
        let envelope = self.command.envelope()?;
        let data = envelope.command()?;
        let id = self.command.event_id.to_string();
        let command = Command {
            id: &id,
            name: &data.command_type,
            target: AggregateRef::from(&self.command.aggregate),
            expected_seq: data.expected_seq,
            payload: data.payload.get(),
            actor: Some(&envelope.actor),
            headers: &[],
        };
        let seed = self.command.event_id.as_u64_pair();
        let mut decision = match self.handler.decision(CallContext { now: envelope.occurred_at, seed }) {
            Ok(decision) => decision,
            Err(failure) => return Ok(Decided::Failed(failure)),
        };
        let mut have: Vec<&Read> = Vec::new();
        for _round in 0..=NEEDS_ROUNDS_MAX {
            let values: Vec<ReadValue<'_>> = have.iter().map(|read| read.value()).collect();
            let wanted = match decision.needs(&command, self.state.as_deref(), &values) {
                Ok(wanted) => wanted,
                Err(failure) => return Ok(Decided::Failed(failure)),
            };
            let before = have.len();
            for aggregate in wanted {
                if have.iter().any(|read| read.aggregate == aggregate) {
                    continue;
                }
                match self.reads.iter().find(|read| read.aggregate == aggregate) {
                    Some(read) => have.push(read),
                    None => {
                        let message = format!("it asks for {aggregate} now, which was not read then");
                        return Ok(Decided::Differs { code: "needs_differ", message });
                    }
                }
            }
            if have.len() > before {
                continue;
            }
            if have.len() != self.reads.len() {
                let message = format!("it asks for {} states now, {} were read then", have.len(), self.reads.len());
                return Ok(Decided::Differs { code: "needs_differ", message });
            }
            let values: Vec<ReadValue<'_>> = have.iter().map(|read| read.value()).collect();
            return Ok(match decision.decide(self.state.as_deref(), &command, &values) {
                Ok(verdict) => Decided::Verdict(verdict),
                Err(failure) => Decided::Failed(failure),
            });
        }
        Ok(Decided::Differs { code: "needs_differ", message: "it asks for more without end now".into() })
    }
}

impl Read {
    fn value(&self) -> ReadValue<'_> {
        ReadValue {
            source: AggregateRef::from(&self.aggregate),
            seq: self.sequence,
            schema_version: &self.schema_version,
            state: self.state.as_deref(),
        }
    }
}

fn differs(code: &'static str, message: impl Into<String>) -> Again {
    Again::Differs { code, message: message.into() }
}

/// The code that made an outcome, what it read, and how many commands it issued.
fn made_with(outcome: &[Record]) -> Result<(Option<HandlerRef>, Vec<ReadRef>, usize), Error> {
    let (mut handler, mut read_set, mut issued) = (None, Vec::new(), 0);
    for record in outcome {
        let metadata_of = record.envelope()?;
        let metadata = metadata_of.metadata()?;
        if handler.is_none() {
            (handler, read_set) = (metadata.handler, metadata.read_set);
        }
        issued = metadata.issued.map_or(issued, |count| count as usize);
    }
    Ok((handler, read_set, issued))
}

/// Whether the host ended a command since the one it relied on had failed.
fn is_predecessor_failed(first: &Record) -> Result<bool, Error> {
    #[derive(serde::Deserialize)]
    struct Data {
        code: String,
    }
    if &*first.event_type != event_type::COMMAND_FAILED {
        return Ok(false);
    }
    let envelope = first.envelope()?;
    // A handler's own refusal may have any form; only the host's has this code and this form.
    Ok(serde_json::from_str::<Data>(envelope.data.get()).is_ok_and(|data| data.code == "predecessor-failed"))
}
