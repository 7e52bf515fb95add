//! Adapters: the ports on real things. Only `app` names them; each vendor crate is named in one adapter.

pub mod fs;
pub mod kafka;
pub mod postgres;
mod rows;
pub mod s3;
pub mod sqlite;
pub mod system_clock;
