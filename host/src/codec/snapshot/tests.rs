//! Snapshots: the bytes are those of the golden file, and not one of them may change.
#![allow(clippy::unwrap_used)]

use super::*;

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/snapshot-1.ndjson");

fn snapshot() -> Snapshot {
    Snapshot {
        store: Uuid::from_u128(0x5afe),
        aggregate: Aggregate::parse("Account", "a \u{e9}").unwrap(),
        sequence: Sequence(500),
        event_id: Uuid::from_u128(0xe),
        last_domain: Sequence(498),
        first_undecided: Some(Sequence(499)),
        last_decided: Some(Decided { command: Sequence(497), failed: true }),
        folder: Folder { handler: Digest::of(b"wasm"), upcasters: vec![Digest::of(b"one"), Digest::of(b"two")] },
        used: vec![Digest::of(b"two")],
        state: Some(Json::parse(br#"{"balance":1.50,"owner":"Ada"}"#).unwrap()),
    }
}

#[test]
fn the_format_is_that_of_the_golden_file() {
    assert_eq!(String::from_utf8(snapshot().encode().to_vec()).unwrap(), String::from_utf8_lossy(GOLDEN));
    assert_eq!(Snapshot::decode(GOLDEN).unwrap(), snapshot());
}

#[test]
fn an_absent_aggregate_and_a_state_that_is_null_are_two_things() {
    let absent = Snapshot { state: None, ..snapshot() };
    let null = Snapshot { state: Some(Json::parse(b"null").unwrap()), ..snapshot() };
    assert_eq!(Snapshot::decode(&absent.encode()).unwrap(), absent);
    assert_eq!(Snapshot::decode(&null.encode()).unwrap(), null);
}

#[test]
fn no_changed_and_no_missing_byte_goes_unseen() {
    for at in 0..GOLDEN.len() {
        let mut changed = GOLDEN.to_vec();
        changed[at] ^= 1;
        assert!(Snapshot::decode(&changed).is_err(), "byte {at}");
        assert!(Snapshot::decode(&GOLDEN[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn keys_differ_by_aggregate_sequence_handler_and_upcasters() {
    let Snapshot { aggregate, sequence, folder, .. } = snapshot();
    let alone = Folder { upcasters: Vec::new(), ..folder.clone() };
    let other = Folder { handler: Digest::of(b"other"), ..folder.clone() };
    let swapped = Folder { upcasters: folder.upcasters.iter().rev().copied().collect(), ..folder.clone() };
    let keys = [
        key(&aggregate, sequence, &folder),
        key(&aggregate, sequence, &alone),
        key(&aggregate, sequence, &other),
        key(&aggregate, sequence, &swapped),
        key(&aggregate, Sequence(1_000), &folder),
        key(&Aggregate::parse("Account", "b").unwrap(), sequence, &folder),
    ];
    assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len(), "{keys:?}");
    assert!(keys[1].starts_with("snapshots/") && keys[1].ends_with("/0000000000000500.ndjson"), "{}", keys[1]);
}
