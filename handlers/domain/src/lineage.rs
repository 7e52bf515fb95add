//! A class and the classes above it, gathered from what a decision has read.

use crate::class::{Class, Property, Relationship};
use crate::events::ClassDefined;
use crate::names::{ONTOLOGY_CLASS, class_id};
use carryall_sdk::{Aggregate, Fault, Reads};
use std::rc::Rc;

/// A class may have up to five classes above it: the rounds in which a decision may read are few.
pub const DEPTH_MAX: usize = 6;

/// How a walk upwards ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// At a class without a parent.
    Top,
    /// At a class that was not read yet.
    Unread(String),
    /// At a class that does not exist.
    Absent(String),
    /// At a class that was there before, or is the one the walk must not reach.
    Cycle(String),
    /// After `DEPTH_MAX` classes.
    TooDeep,
}

/// The classes met on the way up, nearest first.
#[derive(Clone, Debug)]
pub struct Lineage {
    pub classes: Vec<Rc<ClassDefined>>,
    pub end: End,
}

impl Lineage {
    /// Walks up from `first`; `below` is a class that must not be met again.
    pub fn walk(reads: &Reads, db: &str, first: &str, below: Option<&str>) -> Result<Self, Fault> {
        let mut classes: Vec<Rc<ClassDefined>> = Vec::new();
        let mut next = Some(first.to_owned());
        while let Some(id) = next {
            let end = if below == Some(&id) || classes.iter().any(|known| known.class_id == id) {
                Some(End::Cycle(id.clone()))
            } else if classes.len() == DEPTH_MAX {
                Some(End::TooDeep)
            } else if !reads.contains(ONTOLOGY_CLASS, &class_id(db, &id)) {
                Some(End::Unread(id.clone()))
            } else {
                None
            };
            if let Some(end) = end {
                return Ok(Self { classes, end });
            }
            match reads.shared::<ClassDefined>(ONTOLOGY_CLASS, &class_id(db, &id))? {
                Some(class) => {
                    next = class.class.parent.clone();
                    classes.push(class);
                }
                None => return Ok(Self { classes, end: End::Absent(id) }),
            }
        }
        Ok(Self { classes, end: End::Top })
    }

    pub fn contains(&self, class: &str) -> bool {
        self.classes.iter().any(|known| known.class_id == class)
    }

    /// The classes the walk still has to read: where it stopped, and what the classes it met say lies above
    /// them, so that a long lineage takes two rounds and not one each.
    pub fn wanted(&self, db: &str) -> Vec<Aggregate> {
        let End::Unread(next) = &self.end else {
            return Vec::new();
        };
        let hinted = self.classes.iter().flat_map(|class| &class.ancestors).take(DEPTH_MAX);
        std::iter::once(next).chain(hinted).map(|id| Aggregate::new(ONTOLOGY_CLASS, class_id(db, id))).collect()
    }

    pub fn definitions(&self) -> impl Iterator<Item = &Class> {
        self.classes.iter().map(|class| &class.class)
    }

    /// The nearest definition of a property.
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.definitions().flat_map(|class| &class.properties).find(|property| property.name == name)
    }

    /// The nearest definition of a relationship.
    pub fn relationship(&self, predicate: &str) -> Option<&Relationship> {
        self.definitions().flat_map(|class| &class.relationships).find(|known| known.predicate == predicate)
    }

    /// All properties, inherited ones included; a nearer definition hides a farther one of the same name.
    pub fn properties(&self) -> Vec<&Property> {
        let mut all: Vec<&Property> = Vec::new();
        for property in self.definitions().flat_map(|class| &class.properties) {
            if all.iter().all(|known| known.name != property.name) {
                all.push(property);
            }
        }
        all
    }
}
