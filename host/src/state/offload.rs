//! Where guests run. A guest may use its whole time slice, so it never runs on a thread that other tasks need for I/O;
//! where one thread does everything (a simulation, a test) it runs right there, so that the order of everything that
//! happens is the scheduler's alone and a run repeats exactly (I8). Nobody calls guests but through here.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` where it may take its time, and gives what it returns. Dropped, the work still ends by itself.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::spawn_blocking(work).await.expect("calling a guest does not panic"),
    }
}
