//! What a handler says about itself, and a builder for it.

use crate::Message;

/// A named kind of message or state and the versions of it that are understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    pub name: String,
    pub versions: Vec<String>,
    pub json_schema: Option<String>,
}

/// A collection of documents a projection writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    pub name: String,
    pub revision: u32,
    pub mapping: Option<String>,
}

/// The record that `describe` returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub kinds: Vec<String>,
    pub commands: Vec<Contract>,
    pub emits: Vec<Contract>,
    pub folds: Vec<Contract>,
    pub state: Option<Contract>,
    pub reads: Vec<Contract>,
    pub ordering: String,
    pub collections: Vec<Collection>,
    pub labels: Vec<(String, String)>,
}

/// Builds a [`Description`]. Commands and events need no listing: the SDK takes them from the message enums.
#[derive(Clone, Debug)]
pub struct Manifest(Description);

impl Manifest {
    /// `name` is the handler's name in the host for ever; `version` is for people.
    pub fn new(name: &str, version: &str) -> Self {
        Self(Description {
            name: name.into(),
            version: version.into(),
            kinds: Vec::new(),
            commands: Vec::new(),
            emits: Vec::new(),
            folds: Vec::new(),
            state: None,
            reads: Vec::new(),
            ordering: "aggregate".into(),
            collections: Vec::new(),
            labels: Vec::new(),
        })
    }

    /// A kind of aggregate this handler decides for, or a projection reads.
    #[must_use]
    pub fn kind(mut self, kind: &str) -> Self {
        self.0.kinds.push(kind.into());
        self
    }

    /// The shape of the state that `evolve` produces. A shape that an older reader cannot read is a new version.
    #[must_use]
    pub fn state(mut self, name: &str, version: &str) -> Self {
        self.0.state = Some(contract(name, &[version]));
        self
    }

    /// A kind whose state `decide` reads, and the versions of that state it understands.
    #[must_use]
    pub fn reads(mut self, kind: &str, versions: &[&str]) -> Self {
        self.0.reads.push(contract(kind, versions));
        self
    }

    /// A collection this projection writes. Raise `revision` when old documents must be built anew.
    #[must_use]
    pub fn collection(mut self, name: &str, revision: u32) -> Self {
        self.0.collections.push(Collection { name: name.into(), revision, mapping: None });
        self
    }

    /// Events arrive in the order of positions of a partition instead of the order of one aggregate, so that
    /// several aggregates may write one document.
    #[must_use]
    pub fn ordered_by_partition(mut self) -> Self {
        self.0.ordering = "partition".into();
        self
    }

    /// A word for operators; the host does not interpret it.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.0.labels.push((name.into(), value.into()));
        self
    }

    pub(crate) fn accepting<M: Message>(mut self) -> Self {
        self.0.commands = contracts::<M>();
        self
    }

    pub(crate) fn emitting<M: Message>(mut self) -> Self {
        self.0.emits = contracts::<M>();
        self
    }

    pub(crate) fn folding<M: Message>(mut self) -> Self {
        self.0.folds = contracts::<M>();
        self
    }

    pub(crate) fn upcasting(mut self, from: &[(&str, &str)], to: &[(&str, &str)]) -> Self {
        self.0.folds = grouped(from);
        self.0.emits = grouped(to);
        self
    }

    /// The finished record.
    pub fn describe(self) -> Description {
        self.0
    }
}

fn contract(name: &str, versions: &[&str]) -> Contract {
    Contract { name: name.into(), versions: versions.iter().map(ToString::to_string).collect(), json_schema: None }
}

fn contracts<M: Message>() -> Vec<Contract> {
    grouped(M::CONTRACTS)
}

/// One contract a name, in the order of first mention.
fn grouped(pairs: &[(&str, &str)]) -> Vec<Contract> {
    let mut all: Vec<Contract> = Vec::new();
    for (name, version) in pairs {
        match all.iter_mut().find(|known| known.name == *name) {
            Some(known) => known.versions.push((*version).into()),
            None => all.push(contract(name, &[version])),
        }
    }
    all
}
