//! Bundled handlers: deployed once, whatever interrupts it, and never over an operator's choice.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use super::host::{Process, Store, account, component, forced, variant};
use crate::deploy::bundled::{ACTOR, Outcome, REASON};
use crate::deploy::record;

async fn ensure(host: &Process, components: &[bytes::Bytes]) -> Vec<Outcome> {
    let named: Vec<_> = components.iter().map(|bytes| ("stem", bytes.clone())).collect();
    host.ensure_bundled(&named).await.unwrap().into_iter().map(|bundled| bundled.outcome).collect()
}

#[tokio::test]
async fn the_bundled_handlers_deploy_in_the_order_of_their_dependencies() {
    let store = Store::new();
    let host = store.process().await;
    let handlers = ["instance", "ontology", "projection"].map(|name| (name, component(name)));
    let done = host.ensure_bundled(&handlers).await.unwrap();
    let names: Vec<_> = done.iter().map(|bundled| bundled.name.as_str()).collect();
    assert_eq!(names, ["ontology", "instance", "projection"]);
    assert!(done.iter().all(|bundled| bundled.outcome == Outcome::Activated), "{done:?}");
    let active = host.catalog().active();
    for kind in ["Database", "OntologyClass", "Instance", "InstanceBatch"] {
        assert!(active.command_handler(kind).is_some(), "{kind}");
    }
    let deployment = host.get("instance").await.unwrap();
    let last = deployment.history.last().unwrap();
    assert_eq!((last.actor.as_str(), last.reason.as_deref(), last.forced), (ACTOR, Some(REASON), Some(true)));

    let again = store.process().await;
    let done = again.ensure_bundled(&handlers).await.unwrap();
    assert!(done.iter().all(|bundled| bundled.outcome == Outcome::Active), "{done:?}");
    assert_eq!(again.told("instance").await, [record::UPLOADED, record::ACTIVATED]);
}

#[tokio::test]
async fn a_newer_bundled_version_waits_for_the_operator() {
    let store = Store::new();
    let (old, new) = ([account()], [variant(&account(), 2)]);
    let host = store.process().await;
    assert_eq!(ensure(&host, &old).await, [Outcome::Activated]);
    let active = host.serving("account").unwrap();
    assert_eq!(ensure(&host, &new).await, [Outcome::Waiting { active }]);
    assert_eq!(host.serving("account"), Some(active));
    let told = [record::UPLOADED, record::ACTIVATED, record::UPLOADED];
    assert_eq!(host.told("account").await, told);

    let newer = crate::domain::Digest::of(&new[0]);
    host.activate("account", newer, forced(), "alice").await.unwrap();
    assert_eq!(ensure(&host, &old).await, [Outcome::Waiting { active: newer }], "an older binary changes nothing");
    assert_eq!(ensure(&host, &new).await, [Outcome::Active]);
}

#[tokio::test]
async fn two_processes_deploy_the_bundled_handlers_once() {
    let store = Store::new();
    let (a, b) = (store.process().await, store.process().await);
    let components = [account(), component("examples/account-projection")];
    let (first, second) = tokio::join!(ensure(&a, &components), ensure(&b, &components));
    for outcome in first.into_iter().chain(second) {
        assert!(matches!(outcome, Outcome::Activated | Outcome::Active), "{outcome:?}");
    }
    for name in ["account", "account-projection"] {
        assert_eq!(a.told(name).await, [record::UPLOADED, record::ACTIVATED]);
    }
}

/// Polls a future so many times and drops it; whether it came to its end.
async fn cut<F: Future>(future: F, polls: usize) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        future.as_mut().poll(context).map(|_| true)
    })
    .await
}

#[tokio::test]
async fn a_crash_at_any_await_ends_in_the_same_history() {
    let components = [account(), component("examples/account-projection")];
    let mut polls = 0;
    loop {
        let store = Store::new();
        let crashed = store.process().await;
        let finished = cut(ensure(&crashed, &components), polls).await;
        drop(crashed);
        let host = store.process().await;
        for outcome in ensure(&host, &components).await {
            assert!(matches!(outcome, Outcome::Activated | Outcome::Active), "{outcome:?} after {polls} polls");
        }
        for name in ["account", "account-projection"] {
            assert_eq!(host.told(name).await, [record::UPLOADED, record::ACTIVATED], "after {polls} polls");
            assert!(host.serving(name).is_some());
        }
        if finished {
            assert!(polls > 4, "the crash points were met: {polls}");
            return;
        }
        polls += 1;
    }
}
