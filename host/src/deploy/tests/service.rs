//! Upload, activation, rollback and what a restart makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::host::{Process, Store, account, component, forced, variant};
use crate::deploy::check::Ask;
use crate::deploy::fold::State;
use crate::deploy::{Error, key, record};
use crate::domain::{Digest, Partition, Timestamp};
use crate::error::{Classified, Kind};
use crate::port::object_store::ObjectStore;
use crate::sandbox::{self, AggregateRef, CallContext, Catalog, Command, Verdict};

#[tokio::test]
async fn an_upload_is_stored_and_told_and_serves_nothing() {
    let store = Store::new();
    let host = store.process().await;
    let upload = host.upload(account(), "alice").await.unwrap();
    let digest = Digest::of(&account());
    assert!(upload.created);
    assert_eq!((upload.name.as_str(), upload.version.digest), ("account", digest));
    assert_eq!((upload.state, upload.version.world.as_str()), (State::Uploaded, "instance-handler"));
    assert_eq!(upload.version.findings, []);
    assert_eq!(store.objects.get(&key(digest)).await.unwrap(), Some(account()));
    assert_eq!(host.told("account").await, [record::UPLOADED]);
    assert_eq!(host.serving("account"), None);

    let again = host.upload(account(), "bob").await.unwrap();
    assert!(!again.created);
    assert_eq!(again.version, upload.version, "the first answer");
    assert_eq!(host.told("account").await, [record::UPLOADED]);
}

#[tokio::test]
async fn a_component_that_is_none_is_refused_and_leaves_nothing() {
    let store = Store::new();
    let host = store.process().await;
    let error = host.upload(Bytes::from_static(b"no component"), "alice").await.unwrap_err();
    assert!(matches!(&error, Error::Component(sandbox::Error::NotAComponent { .. })), "{error}");
    assert_eq!(error.kind(), Kind::Rejected);
    assert_eq!(store.objects.list("components/", None, 10).await.unwrap().keys, Vec::<String>::new());
    assert!(host.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_activation_swaps_the_catalog_and_a_rollback_swaps_it_back() {
    let store = Store::new();
    let host = store.process().await;
    let changes = host.catalog().changes();
    let first = host.deploy(&account()).await;
    assert_eq!(host.serving("account"), Some(first));
    assert!(changes.has_changed().unwrap());
    let error = host.rollback("account", Ask::default(), "bob").await.unwrap_err();
    assert!(matches!(error, Error::NothingBefore { .. }), "{error}");

    let second = host.deploy(&variant(&account(), 2)).await;
    assert_eq!(host.serving("account"), Some(second));
    let before = host.catalog().active();
    let back = host.rollback("account", Ask::default(), "bob").await.unwrap();
    assert_eq!((back.digest, back.revision, back.previous, back.changed), (first, 3, Some(second), true));
    assert_eq!(host.serving("account"), Some(first));
    assert_eq!(before.get("account").unwrap().handler.digest(), second, "work under way keeps its set");

    let deployment = host.get("account").await.unwrap();
    assert_eq!(deployment.state(second), Some(State::Retired));
    let last = deployment.history.last().unwrap();
    assert_eq!((last.actor.as_str(), last.reason.as_deref()), ("bob", Some("rollback")));
    assert_eq!(host.component(second).await.unwrap().digest(), second, "kept for replay");
}

#[tokio::test]
async fn an_activation_needs_a_report_or_force_and_an_uploaded_digest() {
    let store = Store::new();
    let host = store.process().await;
    let digest = host.upload(account(), "alice").await.unwrap().version.digest;
    let error = host.activate("account", digest, Ask::default(), "alice").await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("verification_required", Kind::Rejected));
    assert!(error.to_string().contains("\"force\": true"), "{error}");
    let error = host.activate("account", Digest([9; 32]), forced(), "alice").await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("unknown_digest", Kind::NotFound));
    let error = host.activate("nobody", digest, forced(), "alice").await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("unknown_handler", Kind::NotFound));
    let ask = Ask { reason: Some("x".repeat(10_000)), ..forced() };
    let error = host.activate("account", digest, ask, "alice").await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("invalid_reason", Kind::Invalid));
    assert_eq!(host.told("account").await, [record::UPLOADED]);

    host.force("account", digest, 0).await.unwrap();
    let again = host.force("account", digest, 1).await.unwrap();
    assert!(!again.changed, "what is active stays so");
    let deployment = host.get("account").await.unwrap();
    assert_eq!(deployment.history.last().unwrap().forced, Some(true));
    assert_eq!((deployment.revision, deployment.history.len()), (1, 2));
}

#[tokio::test]
async fn of_activations_at_the_same_revision_one_wins() {
    let store = Store::new();
    let first = store.process().await;
    let hosts = [store.sibling(&first).await, first];
    let digests = [1, 2].map(|n| variant(&account(), n));
    let mut uploaded = Vec::new();
    for component in &digests {
        uploaded.push(hosts[0].upload(component.clone(), "alice").await.unwrap().version.digest);
    }
    for (round, from_one) in [false, true, false, true].into_iter().enumerate() {
        let revision = round as u64;
        let second = if from_one { &hosts[0] } else { &hosts[1] };
        // Whichever is active is asked for by neither.
        let (a, b) = match round {
            0 => (uploaded[0], uploaded[1]),
            _ => {
                let fresh = [10, 20].map(|n| variant(&account(), n + round as u8));
                let mut digests = Vec::new();
                for component in fresh {
                    digests.push(hosts[1].upload(component, "alice").await.unwrap().version.digest);
                }
                (digests[0], digests[1])
            }
        };
        let (a, b) = tokio::join!(hosts[0].force("account", a, revision), second.force("account", b, revision));
        let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
        assert_eq!(won.unwrap().revision, revision + 1);
        let error = lost.unwrap_err();
        assert!(
            matches!(error, Error::Revision { expected, actual, .. } if (expected, actual) == (revision, revision + 1)),
            "{error}"
        );
    }
    for host in &hosts {
        host.catch_up().await.unwrap();
        assert_eq!(host.serving("account"), host.get("account").await.unwrap().active);
    }
}

#[tokio::test]
async fn uploads_of_one_component_at_once_are_one_upload() {
    let store = Store::new();
    let (a, b) = (store.process().await, store.process().await);
    let (first, second, third) =
        tokio::join!(a.upload(account(), "a"), b.upload(account(), "b"), a.upload(account(), "c"));
    let created = [first, second, third].into_iter().filter(|upload| upload.as_ref().unwrap().created).count();
    assert_eq!(created, 1);
    assert_eq!(a.told("account").await, [record::UPLOADED]);
}

#[tokio::test]
async fn bytes_stored_before_a_crash_are_adopted() {
    let store = Store::new();
    let digest = Digest::of(&account());
    store.objects.put_new(&key(digest), account()).await.unwrap();
    let host = store.process().await;
    assert!(host.list().await.unwrap().is_empty(), "bytes that no event names are no handler");
    assert!(host.upload(account(), "alice").await.unwrap().created);
    assert_eq!(host.told("account").await, [record::UPLOADED]);
}

#[tokio::test]
async fn an_activation_whose_swap_was_lost_is_healed_at_the_next_start() {
    let store = Store::new();
    let host = store.process().await;
    let other = store.sibling(&host).await;
    let digest = host.deploy(&account()).await;
    assert_eq!(other.serving("account"), None, "the event is there, this catalog has not swapped");
    assert_eq!(store.process().await.serving("account"), Some(digest));
    other.catch_up().await.unwrap();
    assert_eq!(other.serving("account"), Some(digest));
}

/// Lets time pass until the active handlers change.
async fn changed(store: &Store, changes: &mut tokio::sync::watch::Receiver<u64>) {
    let waiting = async {
        loop {
            store.clock.advance(Duration::from_secs(1));
            tokio::select! {
                changed = changes.changed() => break changed.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
}

#[tokio::test]
async fn a_process_follows_the_deployments_of_others() {
    let store = Store::new();
    let host = store.process().await;
    let other = store.sibling(&host).await;
    let stop = CancellationToken::new();
    let follower = tokio::spawn(other.deployments.clone().follow(Partition(0), stop.clone()));
    let mut changes = other.catalog().changes();
    for n in 1..4 {
        let digest = host.deploy(&variant(&account(), n)).await;
        changed(&store, &mut changes).await;
        assert_eq!(other.serving("account"), Some(digest));
    }
    stop.cancel();
    follower.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_process_that_asks_learns_at_once_what_others_deployed() {
    let store = Store::new();
    let host = store.process().await;
    let other = store.sibling(&host).await;
    let digest = host.deploy(&account()).await;
    assert_eq!(other.serving("account"), None);
    assert!(other.deployments.learn().await);
    assert_eq!(other.serving("account"), Some(digest));
}

#[tokio::test]
async fn a_damaged_or_missing_component_stops_only_its_own_handler_until_it_is_repaired() {
    let store = Store::new();
    let statements = component("examples/account-projection");
    let host = store.process().await;
    let digest = host.deploy(&account()).await;
    let other = host.deploy(&statements).await;
    for damaged in [None, Some(Bytes::from_static(b"rubbish"))] {
        store.objects.delete(&key(digest)).await.unwrap();
        if let Some(rubbish) = damaged {
            store.objects.put(&key(digest), rubbish).await.unwrap();
        }
        let host = store.process().await;
        assert_eq!(host.serving("account"), None);
        assert!(host.catalog().active().lacks("Account"), "what needs it waits, and is not told that there is none");
        assert_eq!(host.serving("account-projection"), Some(other));
        let trouble = host.trouble();
        assert_eq!(trouble.keys().collect::<Vec<_>>(), ["account"]);
        assert!(trouble["account"].reason.contains("upload the same bytes again"), "{trouble:?}");
        let error = host.component(digest).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);

        assert!(!host.upload(account(), "alice").await.unwrap().created);
        assert_eq!(host.serving("account"), Some(digest));
        assert!(host.trouble().is_empty() && !host.catalog().active().lacks("Account"));
    }
}

#[tokio::test]
async fn a_handler_that_does_not_serve_is_tried_again() {
    let store = Store::new();
    let digest = store.process().await.deploy(&account()).await;
    store.objects.delete(&key(digest)).await.unwrap();
    let host = store.process().await;
    let stop = CancellationToken::new();
    let follower = tokio::spawn(host.deployments.clone().follow(Partition(0), stop.clone()));
    store.objects.put_new(&key(digest), account()).await.unwrap();
    let mut changes = host.catalog().changes();
    changed(&store, &mut changes).await;
    assert_eq!(host.serving("account"), Some(digest));
    stop.cancel();
    follower.await.unwrap().unwrap();
}

/// Opens an account through the set that is active now; gives the digest that decided.
fn open_account(catalog: &Catalog) -> Digest {
    let active = catalog.active();
    let handler = &active.command_handler("Account").unwrap().handler;
    let decision = handler.decision(CallContext { now: Timestamp(1_000), seed: (1, 2) }).unwrap();
    let command = Command {
        id: "7f2d6a3e-9d53-4c8e-a4a1-64a6d6f5b0aa",
        name: "OPEN_ACCOUNT",
        target: AggregateRef { kind: "Account", id: "a-1" },
        expected_seq: Some(0),
        payload: r#"{"owner":"alice"}"#,
        actor: None,
        headers: &[],
    };
    let verdict = decision.decide(None, &command, &[]).unwrap();
    assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
    handler.digest()
}

/// Decides without a pause until told to stop, also by a test that fails.
struct Callers {
    stop: Arc<AtomicBool>,
    calls: Vec<Arc<AtomicUsize>>,
    threads: Vec<std::thread::JoinHandle<Vec<Digest>>>,
}

impl Callers {
    fn start(catalog: &Arc<Catalog>, count: usize) -> Callers {
        let stop = Arc::new(AtomicBool::new(false));
        let calls: Vec<Arc<AtomicUsize>> = (0..count).map(|_| Arc::default()).collect();
        let thread = |calls: &Arc<AtomicUsize>| {
            let (catalog, stop, calls) = (catalog.clone(), stop.clone(), calls.clone());
            std::thread::spawn(move || {
                let mut by = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    by.push(open_account(&catalog));
                    calls.store(by.len(), Ordering::Relaxed);
                }
                by
            })
        };
        Callers { threads: calls.iter().map(thread).collect(), calls, stop }
    }

    /// Returns when each has begun and ended a call, or has failed, which the end tells.
    async fn call(&self) {
        for (calls, thread) in self.calls.iter().zip(&self.threads) {
            // The one under way began before.
            let enough = calls.load(Ordering::Relaxed) + 2;
            while calls.load(Ordering::Relaxed) < enough && !thread.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    fn end(mut self) -> Vec<Vec<Digest>> {
        self.stop.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.threads).into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_under_load_fail_no_call() {
    let store = Store::new();
    let host: Process = store.process().await;
    let digests = [host.deploy(&variant(&account(), 1)).await, host.deploy(&variant(&account(), 2)).await];
    let callers = Callers::start(host.catalog(), 2);
    for n in 0..100u64 {
        host.force("account", digests[(n % 2) as usize], n + 2).await.unwrap();
        if n < 2 {
            callers.call().await;
        }
    }
    for by in callers.end() {
        assert!(digests.iter().all(|digest| by.contains(digest)), "both versions decided under way, in {}", by.len());
    }
    let deployment = host.get("account").await.unwrap();
    assert_eq!((deployment.revision, deployment.history.len()), (102, 104));
}
