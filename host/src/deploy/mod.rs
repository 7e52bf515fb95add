//! Deployment of handlers: which components exist, which of them serve, and who said so.
//!
//! The deployment history is a stream in the log for each handler (aggregate type `Handler`, id = the handler's name):
//! `HANDLER_UPLOADED`, `HANDLER_VERIFIED`, `HANDLER_ACTIVATED`. It is folded by a pure, total [`fold`]; what may be
//! appended is judged by pure rules in [`check`]; the service stores components, appends, and lets the sandbox's
//! catalog follow. Every process folds the same history and comes to the same catalog, so a crash between an append
//! and a swap is healed by the next start, and a second process follows by reading the log.
//!
//! Never activates on upload, never deletes a component, and never lets two versions of one handler serve at once: a
//! swap replaces the whole set atomically, and work under way ends on the set it began with.

pub mod bundled;
pub mod check;
mod components;
mod error;
pub mod fold;
mod follow;
mod reach;
pub mod record;
mod service;

#[cfg(test)]
mod tests;

pub use components::key;
pub use error::Error;
pub use service::{Activation, Deployments, Parts, Trouble, Upload};
