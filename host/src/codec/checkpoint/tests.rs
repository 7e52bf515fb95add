//! The checkpoint object: its bytes and its order.
#![allow(clippy::unwrap_used)]

use super::*;

fn at(segment: u64, position: u64) -> Checkpoint {
    let place = Place { segment: SegmentNumber(segment), position: Position(position), digest: None };
    Checkpoint { partitions: [(0, place)].into(), updated_at: Timestamp(1_765_929_600_000) }
}

#[test]
fn the_object_has_the_contracts_shape() {
    let text =
        "{\"partitions\":{\"0\":{\"segment\":12,\"position\":345}},\"updated_at\":\"2025-12-17T00:00:00.000Z\"}\n";
    assert_eq!(at(12, 345).encode(), text);
    assert_eq!(Checkpoint::decode(text.as_bytes()).unwrap(), at(12, 345));
    assert!(Checkpoint::decode(b"{}").is_err());
}

#[test]
fn a_place_may_name_the_history_it_belongs_to() {
    let mut checkpoint = at(12, 345);
    checkpoint.partitions.get_mut(&0).unwrap().digest = Some(Digest::of(b"segment 11"));
    let text = checkpoint.encode();
    let place = format!("{{\"segment\":12,\"position\":345,\"digest\":\"{}\"}}", Digest::of(b"segment 11"));
    assert!(std::str::from_utf8(&text).unwrap().contains(&place), "{text:?}");
    assert_eq!(Checkpoint::decode(&text).unwrap(), checkpoint);
}

#[test]
fn a_checkpoint_covers_what_is_not_ahead_of_it() {
    assert!(at(2, 5).covers(&at(2, 5)));
    assert!(at(2, 5).covers(&Checkpoint::default()));
    assert!(!at(2, 4).covers(&at(2, 5)));
    assert!(!Checkpoint::default().covers(&at(0, 0)));
}
