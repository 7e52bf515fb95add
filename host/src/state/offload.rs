//! Where guests run. A guest may use its whole time slice, so it never holds up a thread that other tasks need for I/O;
//! where one thread does everything (a simulation, a test) it runs right there, so that the order of everything that
//! happens is the scheduler's alone and a run repeats exactly (I8). Nobody calls guests but through here.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Calls that [`offload_some`] makes in place at most. Some tens of microseconds each, they cost less than handing them
/// to another thread and being woken by it; more of them are worth a thread, beside which the caller's task goes on.
pub const IN_PLACE_MAX: usize = 4;

/// Runs `work` where it may take its time, and gives what it returns. Dropped, the work still ends by itself.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::spawn_blocking(work).await.expect("calling a guest does not panic"),
    }
}

/// [`offload`] for so many calls of guests. A few are made in place, while another thread takes over what this one
/// would have done meanwhile.
pub async fn offload_some<T: Send + 'static>(calls: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread if calls <= IN_PLACE_MAX => tokio::task::block_in_place(work),
        _ => offload(work).await,
    }
}
