//! The fold of the deployment history is pure and total.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{account, activated, digest, statements, uploaded};
use crate::deploy::fold::{Deployment, Fact, State, fold, step};
use crate::deploy::record;
use crate::domain::{Sequence, Timestamp};

fn folded(events: &[(&str, Value)]) -> Deployment {
    let texts: Vec<String> = events.iter().map(|(_, data)| data.to_string()).collect();
    fold("account", events.iter().zip(&texts).enumerate().map(|(n, ((event_type, _), data))| fact(n, event_type, data)))
}

fn fact<'a>(n: usize, event_type: &'a str, data: &'a str) -> Fact<'a> {
    let sequence = Sequence(n as u64 + 1);
    Fact { sequence, at: Timestamp(n as i64 * 1000), actor: "alice", event_type, data }
}

fn upload(n: u8) -> (&'static str, Value) {
    (record::UPLOADED, uploaded(digest(n), &format!("{n}.0.0"), "instance-handler", &account(&["1"], &["1"], "1")))
}

fn activate(n: u8, revision: u64) -> (&'static str, Value) {
    (record::ACTIVATED, activated(digest(n), revision))
}

#[test]
fn versions_go_from_uploaded_over_verified_and_active_to_retired() {
    let verified = (record::VERIFIED, json!({"digest": digest(1), "green": true}));
    let red = (record::VERIFIED, json!({"digest": digest(1), "green": false}));
    let state = |events: &[(&str, Value)]| folded(events).state(digest(1));
    assert_eq!(state(&[]), None);
    assert_eq!(state(&[upload(1)]), Some(State::Uploaded));
    assert_eq!(state(&[upload(1), red.clone()]), Some(State::Uploaded));
    assert_eq!(state(&[upload(1), verified.clone()]), Some(State::Verified));
    assert_eq!(state(&[upload(1), verified.clone(), red]), Some(State::Uploaded), "the last report counts");
    assert_eq!(state(&[upload(1), verified, activate(1, 1)]), Some(State::Active));
    assert_eq!(state(&[upload(1), upload(2), activate(1, 1), activate(2, 2)]), Some(State::Retired));
    assert_eq!(state(&[upload(1), upload(2), activate(1, 1), activate(2, 2), activate(1, 3)]), Some(State::Active));
}

#[test]
fn the_history_says_who_did_what_when_and_why() {
    let deployment = folded(&[upload(1), upload(2), activate(1, 1), activate(2, 2)]);
    assert_eq!((deployment.revision, deployment.active), (2, Some(digest(2))));
    assert_eq!(deployment.before_active(), Some(digest(1)));
    let last = deployment.history.last().unwrap();
    assert_eq!((last.actor.as_str(), last.at, last.sequence), ("alice", Timestamp(3000), Sequence(4)));
    assert_eq!((last.revision, last.forced, last.reason.as_deref()), (Some(2), Some(true), Some("because")));
    assert_eq!((last.digest, last.previous), (Some(digest(2)), Some(digest(1))));
    assert_eq!(deployment.version(digest(1)).unwrap().uploaded_at, Timestamp(0));
}

#[test]
fn an_entry_that_cannot_be_understood_changes_nothing_and_is_kept_with_the_reason() {
    let good = [upload(1), activate(1, 1)];
    for odd in [
        ("HANDLER_PAINTED", json!({})),
        (record::UPLOADED, json!({"digest": "no digest"})),
        (record::UPLOADED, uploaded(digest(1), "9", "projection-handler", &account(&[], &[], "1"))),
        (record::VERIFIED, json!({"digest": digest(7), "green": true})),
        activate(7, 2),
        (record::ACTIVATED, json!(null)),
    ] {
        let mut events = good.to_vec();
        events.push(odd.clone());
        let deployment = folded(&events);
        let entry = deployment.history.last().unwrap();
        assert!(entry.ignored.is_some(), "{odd:?}");
        let mut expected = folded(&good);
        expected.last = Sequence(3);
        expected.history.push(entry.clone());
        assert_eq!(deployment, expected, "{odd:?}");
    }
}

#[test]
fn fields_this_host_does_not_know_are_accepted() {
    let (kind, mut data) = upload(1);
    data["weather"] = json!("fine");
    data["manifest"]["mood"] = json!(["good"]);
    assert_eq!(folded(&[(kind, data)]).state(digest(1)), Some(State::Uploaded));
}

#[test]
fn an_event_folded_twice_counts_once() {
    let (kind, data) = upload(1);
    let (upload_text, activate_text) = (data.to_string(), activate(1, 1).1.to_string());
    let mut deployment = fold("account", [fact(0, kind, &upload_text), fact(1, record::ACTIVATED, &activate_text)]);
    let before = deployment.clone();
    step(&mut deployment, fact(0, kind, &upload_text));
    step(&mut deployment, fact(1, record::ACTIVATED, &activate_text));
    assert_eq!(deployment, before);
}

fn any_event() -> impl Strategy<Value = (&'static str, Value)> {
    let odd = prop_oneof![Just(json!(null)), Just(json!([])), Just(json!({"digest": 3})), Just(json!("text"))];
    let types = prop_oneof![Just(record::UPLOADED), Just(record::VERIFIED), Just(record::ACTIVATED), Just("OTHER")];
    prop_oneof![
        (0..4u8).prop_map(upload),
        (0..4u8, any::<u64>()).prop_map(|(n, revision)| activate(n, revision)),
        (0..4u8, any::<bool>()).prop_map(|(n, green)| (record::VERIFIED, json!({"digest": digest(n), "green": green}))),
        (types, odd),
    ]
}

proptest! {
    #[test]
    fn the_fold_is_total_deterministic_and_splits_anywhere(
        events in proptest::collection::vec(any_event(), 0..24), cut in 0..24usize,
    ) {
        let whole = folded(&events);
        prop_assert_eq!(&whole, &folded(&events));
        let mut parts = folded(&events[..cut.min(events.len())]);
        for (n, (event_type, data)) in events.iter().enumerate().skip(cut) {
            step(&mut parts, fact(n, event_type, &data.to_string()));
        }
        prop_assert_eq!(&whole, &parts);
        // What is reported can be relied on.
        prop_assert_eq!(whole.history.len(), events.len());
        prop_assert_eq!(whole.active.is_some(), whole.revision > 0);
        prop_assert!(whole.active.is_none_or(|digest| whole.state(digest) == Some(State::Active)));
        let actives = whole.versions.iter().filter(|v| whole.state(v.digest) == Some(State::Active)).count();
        prop_assert!(actives <= 1);
        let counted = whole.history.iter().filter_map(|entry| entry.revision).collect::<Vec<_>>();
        prop_assert_eq!(counted, (1..=whole.revision).collect::<Vec<_>>());
    }
}

/// A projection whose collection has this revision.
fn projection(n: u8, revision: u32) -> (&'static str, Value) {
    let mut manifest = statements(&["1"], "statements");
    manifest.collections[0].revision = revision;
    (record::UPLOADED, uploaded(digest(n), &format!("{n}.0.0"), "projection-handler", &manifest))
}

#[test]
fn versions_with_the_same_collections_write_one_build() {
    let uploads = [projection(1, 1), projection(2, 1), projection(3, 2)];
    let after = |steps: &[(&'static str, Value)]| folded(&[&uploads, steps].concat());
    let wanted =
        |steps: &[(&'static str, Value)]| after(steps).wanted_build().map(|build| (build.name.clone(), build.digest));
    let rebuild = (record::REBUILD_ASKED, json!({"reason": "a doubt"}));
    assert_eq!(wanted(&[]), None);
    let first = || "account".to_owned();
    assert_eq!(wanted(&[activate(1, 1)]), Some((first(), digest(1))));
    assert_eq!(wanted(&[activate(1, 1), activate(2, 2)]), Some((first(), digest(2))));
    let third = [activate(1, 1), activate(3, 2)];
    assert_eq!(wanted(&third), Some(("account@030303030303".into(), digest(3))));
    assert_eq!(after(&third).builds[0].digest, digest(1), "who goes on until the other takes over");
    assert_eq!(wanted(&[activate(1, 1), activate(3, 2), activate(2, 3)]), Some((first(), digest(2))));
    let again = [activate(1, 1), rebuild.clone()];
    assert_eq!(wanted(&again), Some(("account@010101010101.1".into(), digest(1))));
    let other = [activate(1, 1), rebuild.clone(), activate(2, 2)];
    assert_eq!(wanted(&other), Some(("account@010101010101.1".into(), digest(2))), "the collections are the same");
    let twice = [activate(1, 1), rebuild.clone(), activate(3, 2), rebuild.clone(), rebuild];
    assert_eq!(wanted(&twice), Some(("account@030303030303.3".into(), digest(3))));
    assert_eq!(folded(&[upload(1), activate(1, 1)]).wanted_build(), None, "what decides writes no documents");
}
