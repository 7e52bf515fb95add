//! The engine's clock: one thread that moves the epoch while guests run, and sleeps while none does. An idle host pays
//! nothing for it; a deadline counts ticks, so ticks that never came while nothing ran do not shorten it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use wasmtime::Engine;

use super::limits::TICK_MS;

/// Ticks without a running guest before the thread goes to sleep: waking it costs a system call, so a host that is
/// merely between two commands keeps it awake.
const LINGER_TICKS: u32 = 100;

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// Owns the thread; stops and joins it when dropped.
#[derive(Debug)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// A guest that runs: the clock ticks at least until this is dropped.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Shared);

impl Ticker {
    pub(super) fn start(engine: Engine) -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared::default());
        let handle = std::thread::Builder::new().name("sandbox-ticker".into()).spawn({
            let shared = shared.clone();
            move || tick(&engine, &shared)
        })?;
        Ok(Ticker { shared, thread: handle.thread().clone(), handle: Some(handle) })
    }

    pub(super) fn running(&self) -> Running<'_> {
        // Sequentially consistent on both sides: either the thread sees the count before it sleeps, or this sees that
        // it sleeps. A wake-up that comes just before the sleep makes the sleep return at once.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("the sandbox ticker panicked");
        }
    }
}

fn tick(engine: &Engine, shared: &Shared) {
    let mut idle_ticks = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        if idle_ticks < LINGER_TICKS {
            std::thread::park_timeout(Duration::from_millis(TICK_MS));
            engine.increment_epoch();
            idle_ticks = if shared.running.load(Ordering::SeqCst) > 0 { 0 } else { idle_ticks + 1 };
        } else {
            shared.asleep.store(true, Ordering::SeqCst);
            if shared.running.load(Ordering::SeqCst) == 0 && !shared.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            shared.asleep.store(false, Ordering::SeqCst);
            idle_ticks = 0;
        }
    }
}
