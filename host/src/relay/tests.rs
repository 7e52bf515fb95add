//! Behaviour of this module on in-memory ports.
#![allow(clippy::unwrap_used)]
