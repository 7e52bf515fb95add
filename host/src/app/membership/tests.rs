//! When a consumer runs, and when it ends, as its group's shares change.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::domain::{Position, Timestamp};
use crate::port;
use crate::port::clock::manual::ManualClock;
use crate::port::read_model::MemoryReadModel;
use crate::port::read_model::builds::{self, State, Wanted};
use crate::port::registry::MemoryRegistry;

const P1: Partition = Partition(1);

fn share(slots: &[u32]) -> Share {
    Share { slots: slots.iter().copied().collect::<BTreeSet<_>>(), of: 2 }
}

/// Counts runs that began and that ended, each told to end.
#[derive(Debug, Default, Clone)]
struct Runs(Arc<(AtomicUsize, AtomicUsize)>);

impl Runs {
    async fn run(&self, release: CancellationToken) -> Result<(), state::Error> {
        if self.0.0.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(port::Error::Unavailable { what: "the database", reason: "an injected fault".into() }.into());
        }
        release.cancelled().await;
        self.0.1.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn until(&self, begun: usize, ended: usize) {
        while (self.0.0.load(Ordering::SeqCst), self.0.1.load(Ordering::SeqCst)) != (begun, ended) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_build_that_was_deleted_between_two_looks_is_not_shown_any_more() {
    const PLAIN: &str = "account-projection:Account";
    let (read_model, progress) = (MemoryReadModel::new(MemoryRegistry::default()), Progress::default());
    let shown = || {
        let rows = progress.consumers();
        rows.into_iter().map(|row| (row.consumer, row.position)).collect::<Vec<_>>()
    };
    for (build, position) in [("account-projection", 7), ("account-projection@90e8ce2decb6", 9)] {
        let wanted = || Wanted { name: build, handler: "account-projection", asked: position, collections: &[] };
        read_model.begin(wanted(), uuid::Uuid::nil()).await.unwrap();
        let consumer = builds::consumer_of(build, PLAIN);
        read_model.set_checkpoint(&consumer, P1, Position(position), None).await.unwrap();
        read_model.set_checkpoint("instance_worker", P1, Position(8), None).await.unwrap();
        note_stored(&read_model, &read_model, &progress).await.unwrap();
        assert!(shown().contains(&(consumer, Position(position))), "{:?}", shown());
        // The first one is live at once.
        let is_second = read_model.turn(build, State::Building, State::Taking).await.unwrap();
        assert_eq!(read_model.take_over(wanted(), &[]).await.unwrap(), is_second);
    }
    // Nobody looks while the first one's rows are deleted.
    assert!(read_model.drop_some("account-projection", &[PLAIN.to_owned()], 1_000).await.unwrap());
    note_stored(&read_model, &read_model, &progress).await.unwrap();
    let left = [
        (builds::consumer_of("account-projection@90e8ce2decb6", PLAIN), Position(9)),
        ("instance_worker".into(), Position(8)),
    ];
    assert_eq!(shown(), left);
}

#[tokio::test]
async fn a_consumer_runs_while_its_partition_is_this_process() {
    let (told, shares) = watch::channel(Share::default());
    let (runs, stop) = (Runs::default(), CancellationToken::new());
    let clock = ManualClock::new(Timestamp(0), 1);
    let tending = tokio::spawn({
        let (runs, stop, clock) = (runs.clone(), stop.clone(), clock.clone());
        async move { tend(P1, shares, &clock, stop, |release| runs.run(release)).await }
    });
    let test = async {
        told.send_replace(share(&[0]));
        tokio::task::yield_now().await;
        runs.until(0, 0).await;
        told.send_replace(share(&[0, 1]));
        runs.until(1, 0).await;
        // The database was away: tried again after a while.
        while runs.0.0.load(Ordering::SeqCst) < 2 {
            clock.advance(Duration::from_millis(100));
            tokio::task::yield_now().await;
        }
        told.send_replace(share(&[0]));
        runs.until(2, 1).await;
        told.send_replace(share(&[1]));
        runs.until(3, 1).await;
        stop.cancel();
        runs.until(3, 2).await;
        tending.await.unwrap().unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), test).await.unwrap();
}
