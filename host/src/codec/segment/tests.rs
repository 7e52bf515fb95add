//! Segments: what is encoded decodes to the same, and every flipped byte is refused.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::codec::envelope::{CommandDraft, DomainDraft, Draft};
use crate::codec::json::Json;

fn command(n: u128, aggregate: &Aggregate) -> Draft {
    CommandDraft {
        command_id: Uuid::from_u128(n),
        command_type: "OPEN",
        aggregate,
        expected_seq: None,
        payload: &Json::empty_object(),
        actor: "ann",
        occurred_at: Timestamp(5),
        correlation_id: "c",
        causation_id: None,
        traceparent: None,
        extra: None,
        topic: "account_commands".into(),
        service: "api",
    }
    .build()
    .unwrap()
}

fn outcome(n: u128, index: usize, aggregate: &Aggregate) -> Draft {
    DomainDraft {
        command_id: Uuid::from_u128(n),
        index,
        event_type: "OPENED",
        aggregate,
        occurred_at: Timestamp(6),
        actor: "ann",
        data: &Json::null(),
        correlation_id: "c",
        causation_id: None,
        handler: None,
        read_set: &[],
        traceparent: None,
        schema_version: "1.0.0",
        issued: None,
        extra: None,
        topic: "account_events".into(),
        service: "worker",
    }
    .build()
    .unwrap()
}

fn header() -> Header {
    Header {
        store: Uuid::from_u128(1),
        partition: Partition(3),
        segment: SegmentNumber(20_001),
        epoch: 2,
        writer: "w \u{e9}".into(),
        put_id: Uuid::from_u128(2),
        prev_digest: Digest::of(b"before"),
        first_position: Position(7),
        count: 0,
        recorded_at: Timestamp(1_765_929_600_000),
    }
}

fn sample() -> Segment {
    let (a, b) = (Aggregate::parse("Account", "a").unwrap(), Aggregate::parse("Account", "b").unwrap());
    let drafts = [command(1, &a), outcome(1, 0, &a), command(2, &b)];
    let numbers = [Sequence(1), Sequence(2), Sequence(41)];
    let events: Vec<_> = drafts.iter().zip(numbers).collect();
    encode(header(), &events)
}

#[test]
fn keys_are_those_of_the_contract() {
    assert_eq!(sample().key(), "events/0003/000000000002/0000000000020001.ndjson");
}

#[test]
fn a_segment_reads_back_as_it_was_built() {
    let segment = sample();
    let read = decode(segment.bytes.clone()).unwrap();
    assert_eq!(read.header, segment.header);
    assert_eq!((read.digest, read.next_position()), (segment.digest, Position(10)));
    assert_eq!(format!("{:?}", read.events), format!("{:?}", segment.events));
    assert_eq!(decode_header(&segment.bytes).unwrap(), segment.header);
    let text = std::str::from_utf8(&segment.bytes).unwrap();
    assert!(text.starts_with("{\"format\":\"carryall-segment-1\",\"store\":\"00000000-0000-0000-0000-000000000001\","));
    assert_eq!(text.lines().count(), 5);
    let footer: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(footer.as_object().unwrap().len(), 4);
}

#[test]
fn every_flipped_byte_of_the_body_and_every_cut_is_refused() {
    let bytes = sample().bytes;
    for at in 0..bytes.len() {
        assert!(decode(bytes.slice(..at)).is_err(), "cut at {at}");
        let mut broken = bytes.to_vec();
        broken[at] ^= 1;
        if let Ok(read) = decode(Bytes::from(broken)) {
            // Outside the digest only fingerprints may differ: the checker computes those again.
            assert_eq!(read.digest, sample().digest);
            let contents = |s: &Segment| s.events.iter().map(|e| e.fingerprint).collect::<Vec<_>>();
            assert_ne!(contents(&read), contents(&sample()), "flip at {at}");
        }
    }
}

#[test]
fn a_gap_within_an_aggregate_and_a_repeated_id_are_refused() {
    let a = Aggregate::parse("Account", "a").unwrap();
    let drafts = [command(1, &a), command(2, &a), command(1, &a)];
    let gap = encode(header(), &[(&drafts[0], Sequence(1)), (&drafts[1], Sequence(3))]);
    assert!(decode(gap.bytes).unwrap_err().to_string().contains("cannot go on"));
    let zero = encode(header(), &[(&drafts[0], Sequence(0))]);
    assert!(decode(zero.bytes).is_err());
    let twice = encode(header(), &[(&drafts[0], Sequence(1)), (&drafts[2], Sequence(2))]);
    assert!(decode(twice.bytes).unwrap_err().to_string().contains("occurs twice"));
}

proptest! {
    #[test]
    fn rubbish_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), lines in any::<bool>()) {
        let mut bytes = bytes;
        if lines {
            bytes.extend_from_slice(b"\n{}\n");
        }
        prop_assert!(decode(Bytes::from(bytes)).is_err());
    }
}
