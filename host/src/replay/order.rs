//! Idempotency and order, seen in one walk over a partition: ids are derived as they should be, every outcome is one
//! run of events after its command, and the commands of an aggregate are decided in their order (I4, I6). Pure.

use std::collections::HashMap;

use uuid::Uuid;

use super::report::Checked;
use crate::domain::{Aggregate, EventKind, Sequence, derived_id};
use crate::event_store::Record;

/// What the walk knows of an aggregate.
#[derive(Debug, Default)]
struct Seen {
    /// How many aggregates were seen before this one.
    number: usize,
    last: Sequence,
    commands: u64,
    /// Commands without an outcome.
    open: HashMap<Uuid, Sequence>,
    /// The command whose outcome came last, and how many events it has so far.
    outcome: Option<(Uuid, usize)>,
    /// Sequence of the last command decided.
    decided: Sequence,
}

/// A walk over records in the order of the log.
#[derive(Debug, Default)]
pub struct Order {
    aggregates: HashMap<Aggregate, Seen>,
}

impl Order {
    /// Takes the next record of a partition.
    pub fn take(&mut self, record: &Record, idempotency: &mut Checked, order: &mut Checked) {
        let key = || format!("{}#{}", record.aggregate, record.sequence);
        let number = self.aggregates.len();
        let new = || Seen { number, ..Seen::default() };
        let seen = self.aggregates.entry(record.aggregate.clone()).or_insert_with(new);
        order.checked += 1;
        if record.sequence.0 != seen.last.0 + 1 {
            order.add(key(), "sequence_gap", format!("it follows sequence {}", seen.last));
        }
        seen.last = record.sequence;
        if record.kind == EventKind::Command {
            seen.commands += 1;
            seen.open.insert(record.event_id, record.sequence);
            return;
        }
        idempotency.checked += 1;
        let Some(command) = record.command_id else { return };
        let index = match seen.outcome {
            Some((of, count)) if of == command => count,
            _ => 0,
        };
        seen.outcome = Some((command, index + 1));
        if record.event_id != derived_id::domain_event(command, index) {
            let message = format!("event {} is not number {index} of command {command}", record.event_id);
            idempotency.add(key(), "second_outcome", message);
        }
        if index > 0 {
            return;
        }
        // A stream without commands has operations, which decide nothing.
        if let Some(sequence) = seen.open.remove(&command) {
            if sequence < seen.decided {
                let message =
                    format!("command {command} was sent before the one at {} and decided after it", seen.decided);
                order.add(key(), "decided_out_of_order", message);
            }
            seen.decided = seen.decided.max(sequence);
        }
    }

    /// Commands without an outcome: work that waits.
    pub fn undecided(&self) -> usize {
        self.aggregates.values().map(|seen| seen.open.len()).sum()
    }

    /// Every aggregate that was seen and the number of its commands, in the order of their first events: neighbours lie
    /// in the same segments.
    pub fn aggregates(&self) -> Vec<(Aggregate, u64)> {
        let mut all: Vec<(&Aggregate, &Seen)> = self.aggregates.iter().collect();
        all.sort_unstable_by_key(|(_, seen)| seen.number);
        all.into_iter().map(|(aggregate, seen)| (aggregate.clone(), seen.commands)).collect()
    }
}
