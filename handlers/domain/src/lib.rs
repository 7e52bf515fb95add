//! What the bundled handlers share: names, class definitions, values, and the data of their events.
//!
//! Pure data and checks; it decides nothing. The shapes here are stored for ever: add fields, never change one.

pub mod class;
pub mod data;
pub mod events;
pub mod lineage;
pub mod names;
pub mod value;

/// The version of every state and event of the bundled handlers.
pub const VERSION: &str = "1.0.0";
