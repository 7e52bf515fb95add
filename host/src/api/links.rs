//! Addresses that answers point at.

use uuid::Uuid;

/// Status of a command.
pub fn status(command_id: Uuid) -> String {
    format!("/api/v1/commands/{command_id}/status")
}
