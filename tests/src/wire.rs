//! A wire between a host and a server that can be cut and mended: bytes go through as they come.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections end, and new ones end at once.
    Cut,
    /// Connections stay open and nothing goes through.
    Silent,
}

/// A wire to one server.
pub struct Wire {
    address: SocketAddr,
    state: watch::Sender<State>,
}

impl Wire {
    /// A whole wire to `upstream` (`host:port`).
    pub async fn to(upstream: &str) -> anyhow::Result<Wire> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("find a free port")?;
        let address = listener.local_addr()?;
        let (state, seen) = watch::channel(State::Whole);
        let upstream = upstream.to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, upstream.clone(), seen.clone()));
            }
        });
        Ok(Wire { address, state })
    }

    /// Where the host connects to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    pub fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    /// New connections go through; those that were cut or silent stay so.
    pub fn mend(&self) {
        self.state.send_replace(State::Whole);
    }
}

/// Carries one connection while the wire is whole. A failed copy is a connection that ended.
async fn carry(mut near: TcpStream, upstream: String, mut state: watch::Receiver<State>) {
    if *state.borrow_and_update() == State::Whole {
        let Ok(mut far) = TcpStream::connect(upstream).await else { return };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
            _ = state.changed() => {}
        }
        if *state.borrow_and_update() == State::Silent {
            // Held open, until somebody changes the wire again.
            state.changed().await.ok();
            drop(far);
        }
    } else if *state.borrow_and_update() == State::Silent {
        state.changed().await.ok();
    }
}
