//! Exports two domain interfaces, so that nobody can say what it is.
#![cfg(target_family = "wasm")]

use exports::carryall::handler::{instance, manifest, upcaster};
use instance::{Aggregate, Command, Context, Fault, ReadValue, RecordedEvent, Verdict};
use upcaster::Stored;

wit_bindgen::generate!({
    inline: "
        package abuse:two;
        world two {
            include carryall:handler/instance-handler@0.1.0;
            export carryall:handler/upcaster@0.1.0;
        }
    ",
    path: "../../wit/0.1",
    world: "abuse:two/two",
    generate_all,
});

struct Both;
export!(Both);

impl manifest::Guest for Both {
    fn describe() -> manifest::Description {
        unreachable!("a component of two worlds is refused before it runs")
    }
}

impl instance::Guest for Both {
    fn needs(_cmd: Command, _state: Option<String>, _have: Vec<ReadValue>) -> Result<Vec<Aggregate>, Fault> {
        Ok(Vec::new())
    }

    fn decide(_ctx: Context, _state: Option<String>, _cmd: Command) -> Result<Verdict, Fault> {
        Ok(Verdict::Unchanged)
    }

    fn evolve(state: Option<String>, _events: Vec<RecordedEvent>) -> Result<Option<String>, Fault> {
        Ok(state)
    }
}

impl upcaster::Guest for Both {
    fn upcast(event: Stored) -> Result<Vec<Stored>, Fault> {
        Ok(vec![event])
    }
}
