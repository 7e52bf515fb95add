//! Ids derived from names. A handler has no random source, and needs none: an id derived from the command is
//! the same in every run of it.

use uuid::Uuid;

/// UUIDv5 in the URL namespace, in its usual text form.
pub fn derived(name: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
}

/// The id the host gives to the command that a decision issues at `index`, counted from 0.
pub fn issued_command(command_id: &str, index: usize) -> String {
    derived(&format!("carryall:{command_id}:command:{index}"))
}
