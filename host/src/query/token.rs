//! Opaque texts that clients hand back: consistency tokens and cursors over partitions. Safe in a URL and in a header.
//! Pure. Their form may change in any release; a text of an older form is refused, never misread.

use std::fmt::Write as _;

use uuid::Uuid;

use super::Error;
use crate::domain::{Partition, Position};

/// Partitions a text may name: a store has at most as many.
const PARTITIONS_MAX: usize = 1_024;

/// What a read waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// The command is decided and its outcome is projected.
    Command(Uuid),
    /// These positions are projected.
    Positions(Vec<(Partition, Position)>),
}

impl Token {
    /// The text that a client keeps.
    pub fn encode(&self) -> String {
        match self {
            Token::Command(id) => format!("c1.{}", id.simple()),
            Token::Positions(places) => {
                let mut text = "p1".to_owned();
                for (partition, position) in places {
                    let _ = write!(text, ".{partition}-{position}");
                }
                text
            }
        }
    }

    /// Reads such a text.
    pub fn decode(text: &str) -> Result<Token, Error> {
        let refused = || Error::Parameter { name: "Consistency-Token", reason: "it is no token of this host".into() };
        if let Some(id) = text.strip_prefix("c1.") {
            return (id.len() == 32)
                .then(|| Uuid::try_parse(id).ok())
                .flatten()
                .map(Token::Command)
                .ok_or_else(refused);
        }
        let places = text.strip_prefix("p1.").ok_or_else(refused)?;
        let places: Option<Vec<_>> = places.split('.').take(PARTITIONS_MAX + 1).map(place).collect();
        match places {
            Some(places) if places.len() <= PARTITIONS_MAX => Ok(Token::Positions(places)),
            _ => Err(refused()),
        }
    }
}

fn place(text: &str) -> Option<(Partition, Position)> {
    let (partition, position) = text.split_once('-')?;
    Some((Partition(number(partition)?), Position(number(position)?)))
}

/// Digits only: what `encode` writes, and nothing else that `parse` would take.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A place in the whole log: for every partition the position that comes next. Following it gives each event exactly
/// once, in order within its partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    next: Vec<Position>,
}

impl Cursor {
    /// The beginning of a log with so many partitions.
    pub fn start(partitions: u16) -> Cursor {
        Cursor { next: vec![Position(0); usize::from(partitions)] }
    }

    /// Reads the text of [`Cursor::encode`], for a log with so many partitions.
    pub fn decode(text: &str, partitions: u16) -> Result<Cursor, Error> {
        let refused = || Error::Parameter { name: "after", reason: "it is no `next` or event id of this list".into() };
        let places = text.strip_prefix("e1.").ok_or_else(refused)?;
        let next: Option<Vec<_>> =
            places.split('.').take(usize::from(partitions) + 1).map(|part| number(part).map(Position)).collect();
        match next {
            Some(next) if next.len() == usize::from(partitions) => Ok(Cursor { next }),
            _ => Err(refused()),
        }
    }

    /// The text that a client keeps.
    pub fn encode(&self) -> String {
        let mut text = "e1".to_owned();
        for position in &self.next {
            let _ = write!(text, ".{position}");
        }
        text
    }

    /// Position that comes next in a partition.
    pub fn next(&self, partition: Partition) -> Position {
        self.next.get(usize::from(partition.0)).copied().unwrap_or_default()
    }

    /// Everything of this partition below `next` was seen.
    pub fn advance(&mut self, partition: Partition, next: Position) {
        if let Some(slot) = self.next.get_mut(usize::from(partition.0)) {
            *slot = (*slot).max(next);
        }
    }
}
