//! The handler `{{name}}`: decides the commands of aggregates of type `{{kind}}`.
//!
//! The example counts things up to a limit. Replace it by your domain: the commands, the events, the state, the
//! rules in `decide`, and a scenario in `tests.rs` for each rule.

use carryall_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// The greatest count.
const COUNT_MAX: u32 = 1_000;

/// Payload of INCREASE.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Increase {
    pub by: u32,
}

/// Payload of RESET.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {}

carryall_sdk::messages! {
    pub enum Command {
        "INCREASE" "1.0.0" => Increase(Increase),
        "RESET" "1.0.0" => Reset(Reset),
    }
}

/// Data of INCREASED. What happened is stored for ever: add fields with a default, never change one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Increased {
    pub by: u32,
    /// After the increase.
    pub count: u32,
}

/// Data of WAS_RESET.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WasReset {}

carryall_sdk::messages! {
    pub enum Event {
        "INCREASED" "1.0.0" => Increased(Increased),
        "WAS_RESET" "1.0.0" => WasReset(WasReset),
    }
}

/// What the events fold to. Another shape needs another version in the manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub count: u32,
}

pub struct Handler;

impl InstanceHandler for Handler {
    type State = State;
    type Command = Command;
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("{{name}}", env!("CARGO_PKG_VERSION")).kind("{{kind}}").state("{{name}}", "1.0.0")
    }

    fn decide(_: &Context, state: Option<&State>, command: &Received<Command>) -> Result<Decision<Event>, Fault> {
        let count = state.map_or(0, |state| state.count);
        Ok(match &command.body {
            Command::Increase(Increase { by: 0 }) => {
                Decision::reject(Problem::new("nothing-to-add", "`by` must be at least 1").at("/by"))
            }
            Command::Increase(Increase { by }) if *by > COUNT_MAX - count => {
                let message = format!("the count is {count} and at most {COUNT_MAX}");
                Decision::reject(Problem::new("count-too-large", message).at("/by"))
            }
            Command::Increase(Increase { by }) => {
                Decision::accept(Event::Increased(Increased { by: *by, count: count + by }))
            }
            Command::Reset(_) if count == 0 => Decision::Unchanged,
            Command::Reset(_) => Decision::accept(Event::WasReset(WasReset {})),
        })
    }

    fn evolve(_: Option<State>, event: Recorded<Event>) -> Result<Option<State>, Fault> {
        Ok(match event.body {
            Event::Increased(increased) => Some(State { count: increased.count }),
            // No state: for readers the aggregate does not exist any more. Its history goes on.
            Event::WasReset(_) => None,
        })
    }
}

carryall_sdk::export!(instance: Handler);

#[cfg(test)]
mod tests;
