//! Rules of identifiers, digests, partitions and time.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[test]
fn timestamps_print_and_parse_with_milliseconds() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_765_929_600_000, "2025-12-17T00:00:00.000Z"),
        (951_782_400_123, "2000-02-29T00:00:00.123Z"),
        (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
    ] {
        assert_eq!(Timestamp(ms).to_string(), text);
        assert_eq!(text.parse::<Timestamp>().unwrap(), Timestamp(ms));
    }
}

proptest! {
    #[test]
    fn timestamps_round_trip(ms in 0i64..253_402_300_799_999) {
        prop_assert_eq!(Timestamp(ms).to_string().parse::<Timestamp>().unwrap(), Timestamp(ms));
    }
}

#[test]
fn identifiers_are_taken_byte_for_byte_or_refused() {
    for (kind, id) in [
        ("Database", "shop"),
        ("OntologyClass", "shop:Product"),
        ("Instance", "shop:Product:a.b-C_9"),
        ("Account", "x:y:z any text"),
    ] {
        assert_eq!(Aggregate::parse(kind, id).unwrap().to_string(), format!("{kind}/{id}"));
    }
    for (kind, id) in [
        ("database", "shop"),
        ("Database", " shop"),
        ("Database", "shop:x"),
        ("OntologyClass", "shop"),
        ("Instance", "shop:Product"),
        ("Instance", "shop:Product:.x"),
        ("Instance", "shop:Product:a:b"),
        ("Account", ""),
        ("Account", "a\nb"),
    ] {
        assert!(Aggregate::parse(kind, id).is_err(), "{kind}/{id}");
    }
    assert!(Aggregate::parse("Account", &"x".repeat(513)).is_err());
}

#[test]
fn topics_follow_the_aggregate_type() {
    let topic = |kind: &str| event_topic(&AggregateType::parse(kind).unwrap());
    assert_eq!(topic("Instance"), "instance_events");
    assert_eq!(topic("InstanceBatch"), "instance_events");
    assert_eq!(topic("OntologyClass"), "ontology_events");
    assert_eq!(topic("Database"), "database_events");
    assert_eq!(topic("BankAccount"), "bank_account_events");
}

#[test]
fn digests_round_trip_and_refuse_other_texts() {
    let digest = Digest::of(b"x");
    assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    assert!("ABC".parse::<Digest>().is_err());
    assert!("AB".repeat(32).parse::<Digest>().is_err());
}

#[test]
fn partitions_are_stable() {
    let aggregate = Aggregate::parse("Account", "a-1").unwrap();
    assert_eq!(Partition::of(&aggregate, 1), Partition(0));
    let slot = Partition::of(&aggregate, 7);
    assert!(slot.0 < 7);
    assert_eq!(Partition::of(&aggregate, 7), slot);
}
