//! Models of the two protocols that everything rests on, small enough that every reachable state is looked at: the
//! commit of a segment by several writers, and the claim of an event under leases. Each is also broken on purpose, to
//! show that its invariants would notice.
#![allow(clippy::unwrap_used)]

mod claim;
mod commit;
mod explore;
