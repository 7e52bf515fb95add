//! Consumers of a process that shares the work with others: a consumer runs on a partition of the log while its group
//! leaves the partition to this process. What it began when the partition goes, it finishes; the next one finds what is
//! done in the registry and the log, so that nothing is done twice however the two overlap (I6).

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::builds::note_stored;
use crate::domain::Partition;
use crate::error::{Classified as _, Kind};
use crate::port::bus::Share;
use crate::port::clock::Clock;
use crate::port::object_store::ObjectStore;
use crate::port::read_model::ReadModel;
use crate::port::read_model::builds::Builds;
use crate::relay;
use crate::state::{self, Progress};

#[cfg(test)]
mod tests;

/// Wait before a consumer that a part was away for is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the stored checkpoints of other processes are looked at, while somebody waits for them and else.
const LOOK_MIN: Duration = Duration::from_millis(25);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Runs a consumer whenever the partition is this process's. `run` works until its signal, then finishes.
pub(crate) async fn tend<R: Future<Output = Result<(), state::Error>>>(
    partition: Partition,
    mut share: watch::Receiver<Share>,
    clock: &dyn Clock,
    stop: CancellationToken,
    run: impl Fn(CancellationToken) -> R,
) -> Result<(), state::Error> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            told = until(&mut share, |share| share.takes(partition)) => if !told { return Ok(()) },
        }
        let release = stop.child_token();
        let mut running = std::pin::pin!(run(release.clone()));
        let ended = tokio::select! {
            biased;
            ended = &mut running => ended,
            // Also when the group is left for good: the process stops.
            _ = until(&mut share, |share| !share.takes(partition)) => {
                release.cancel();
                running.await
            }
        };
        match ended {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Unknown) => {
                tracing::warn!(partition = partition.0, %error, "a consumer is tried again");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = clock.sleep(RETRY) => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns when the share is so; `false` when nobody tells any more.
async fn until(share: &mut watch::Receiver<Share>, is_so: impl Fn(&Share) -> bool) -> bool {
    share.wait_for(|share| is_so(share)).await.is_ok()
}

/// Learns how far the consumers of other processes are, from the checkpoints they store.
pub(crate) async fn follow_others(
    progress: Progress,
    read_model: &dyn ReadModel,
    builds: &dyn Builds,
    objects: &dyn ObjectStore,
    clock: &dyn Clock,
    stop: CancellationToken,
) -> Result<(), state::Error> {
    loop {
        // Nobody waits for the relay; operators look at it.
        if !progress.is_awaited() {
            match relay::stored(objects).await {
                Ok(places) => places.into_iter().for_each(|(p, at)| progress.note_stored(relay::NAME, p, at)),
                Err(error) => tracing::debug!(%error, "how far the relay of another process is, is not known"),
            }
        }
        if let Err(error) = note_stored(builds, read_model, &progress).await {
            tracing::debug!(%error, "how far other processes are is not known");
        }
        let wait = if progress.is_awaited() { LOOK_MIN } else { LOOK_MAX };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = clock.sleep(wait) => {}
            () = progress.awaited(), if wait == LOOK_MAX => {}
        }
    }
}
