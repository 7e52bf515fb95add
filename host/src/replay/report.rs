//! What a check says: for each invariant, how much was looked at, how much diverges, and the first divergence by name.

use serde::Serialize;

pub use crate::event_store::verify::Finding;

/// What must hold of every store, in the words of `docs/invariants.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// The log is whole: chain, numbers, contents; and the index is its fold.
    Log,
    /// The read model is what the projections make of the log.
    Projection,
    /// No event twice, one outcome for each command, nothing done without its effect.
    Idempotency,
    /// Sequences without gap, an outcome after its command, commands decided in their order.
    Order,
    /// What is stored is understood by the active handlers; each document has one owner.
    Composition,
    /// The same code on the same states decides the same.
    Determinism,
    /// Whoever waits for his write sees it.
    ReadYourWrites,
}

impl Invariant {
    pub const ALL: [Invariant; 7] = [
        Invariant::Log,
        Invariant::Projection,
        Invariant::Idempotency,
        Invariant::Order,
        Invariant::Composition,
        Invariant::Determinism,
        Invariant::ReadYourWrites,
    ];

    /// The name in reports and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Invariant::Log => "log",
            Invariant::Projection => "projection",
            Invariant::Idempotency => "idempotency",
            Invariant::Order => "order",
            Invariant::Composition => "composition",
            Invariant::Determinism => "determinism",
            Invariant::ReadYourWrites => "read_your_writes",
        }
    }
}

/// What was found out about one invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub invariant: Invariant,
    /// Things looked at: events, commands, documents.
    pub checked: u64,
    /// Things that cannot be judged, such as an outcome that a limit caused.
    pub skipped: u64,
    pub divergences: u64,
    /// The first of them.
    pub first: Option<Finding>,
    /// Why nothing, or not everything, was looked at.
    pub note: Option<String>,
}

impl Checked {
    pub fn new(invariant: Invariant) -> Checked {
        Checked { invariant, checked: 0, skipped: 0, divergences: 0, first: None, note: None }
    }

    /// Takes in what was found out after this.
    pub fn join(&mut self, later: Checked) {
        self.checked += later.checked;
        self.skipped += later.skipped;
        self.divergences += later.divergences;
        self.first = self.first.take().or(later.first);
    }

    pub fn add(&mut self, key: impl Into<String>, code: &'static str, message: impl Into<String>) {
        self.divergences += 1;
        self.first.get_or_insert_with(|| Finding { key: key.into(), code, message: message.into() });
    }
}

/// The whole report, in the order of [`Invariant::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub events: u64,
    pub invariants: Vec<Checked>,
}

impl Report {
    pub fn new() -> Report {
        Report { events: 0, invariants: Invariant::ALL.map(Checked::new).to_vec() }
    }

    /// The part about one invariant.
    pub fn of(&mut self, invariant: Invariant) -> &mut Checked {
        let place = Invariant::ALL.iter().position(|known| *known == invariant).expect("ALL has every invariant");
        &mut self.invariants[place]
    }

    /// Nothing diverges.
    pub fn is_clean(&self) -> bool {
        self.invariants.iter().all(|checked| checked.divergences == 0)
    }
}

impl Default for Report {
    fn default() -> Report {
        Report::new()
    }
}
