//! Imports the network.
#![cfg(target_family = "wasm")]

use exports::carryall::handler::{manifest, upcaster};
use upcaster::{Fault, Stored};

wit_bindgen::generate!({ path: "../../wit/0.1", world: "upcaster-handler" });

struct Caller;
export!(Caller);

impl manifest::Guest for Caller {
    fn describe() -> manifest::Description {
        unreachable!("a component that imports sockets is refused before it runs")
    }
}

impl upcaster::Guest for Caller {
    fn upcast(event: Stored) -> Result<Vec<Stored>, Fault> {
        match std::net::TcpStream::connect(event.data) {
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(Fault { code: "connect".into(), message: error.to_string() }),
        }
    }
}
