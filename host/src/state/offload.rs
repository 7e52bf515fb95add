//! Where guests run. A guest may use its whole time slice, so it never holds up a thread that other tasks need for I/O;
//! yet handing a quick call over costs as much as the call, so each begins in place ([`in_place`]). Where one thread
//! does everything (a simulation, a test) it stays there, so that the order of everything that happens is the
//! scheduler's alone and a run repeats exactly (I8). Nobody calls guests but through here.

use futures_util::future::join_all;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::sandbox::in_place;

/// Runs `work` where it may take its time, and gives what it returns. Dropped, the work still ends by itself.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::spawn_blocking(work).await.expect("calling a guest does not panic"),
    }
}

/// Calls guests: in place, and when one is cut short there, once more where it may take its time. `work` goes on from
/// what it has made of `state`.
pub async fn call_guests<S, R>(mut state: S, work: impl Fn(&mut S) -> R + Send + 'static) -> (S, R)
where
    S: Send + 'static,
    R: Send + 'static,
{
    if let Some(done) = in_place(|| work(&mut state)) {
        return (state, done);
    }
    offload(move || {
        let done = work(&mut state);
        (state, done)
    })
    .await
}

/// The same for several states, on several threads where there are some; in their order.
pub async fn call_guests_for_each<S, R, W>(states: Vec<S>, work: W) -> Vec<(S, R)>
where
    S: Send + 'static,
    R: Send + 'static,
    W: Fn(&mut S) -> R + Clone + Send + 'static,
{
    let threads = Handle::current().runtime_flavor();
    if states.len() == 1 || threads == RuntimeFlavor::CurrentThread {
        let mut done = Vec::with_capacity(states.len());
        for state in states {
            done.push(call_guests(state, work.clone()).await);
        }
        return done;
    }
    // All of them, this task's own too: of tasks that a thread spawns, another takes any but the last.
    let spawned: Vec<_> = states.into_iter().map(|state| tokio::spawn(call_guests(state, work.clone()))).collect();
    join_all(spawned).await.into_iter().map(|done| done.expect("calling a guest does not panic")).collect()
}
