//! A pack gives back what was put in, and refuses whatever else.
#![allow(clippy::unwrap_used)]

use super::*;

const FIRST: SegmentNumber = SegmentNumber(512);
const SIZE: Size = Size(256);

fn segments() -> Vec<Bytes> {
    (0..SIZE.0)
        .map(|number| Bytes::from(format!("{{\"segment\":{number}}}\n{}\n", "x".repeat(number as usize))))
        .collect()
}

fn packed() -> Bytes {
    encode(Uuid::from_u128(7), Partition(3), FIRST, &segments(), Digest([9; 32]))
}

#[test]
fn the_segments_come_back_byte_for_byte() {
    let pack = decode(packed(), SIZE).unwrap();
    assert_eq!(
        (pack.store, pack.partition, pack.first, pack.digest),
        (Uuid::from_u128(7), Partition(3), FIRST, Digest([9; 32]))
    );
    for (index, segment) in segments().into_iter().enumerate() {
        assert_eq!(pack.segment(SegmentNumber(FIRST.0 + index as u64)), Some(segment));
    }
    assert_eq!(pack.segment(SegmentNumber(FIRST.0 - 1)), None);
    assert_eq!(pack.segment(SegmentNumber(FIRST.0 + SIZE.0)), None);
}

#[test]
fn the_same_segments_give_the_same_bytes_under_one_name() {
    assert_eq!(packed(), packed());
    let name = "indexes/segments/0003/0000000000000512.ndjson";
    assert_eq!(SIZE.key(Partition(3), FIRST), name);
    assert_eq!(SIZE.key(Partition(3), SegmentNumber(767)), name);
    assert_eq!((SIZE.first(SegmentNumber(767)), SIZE.last(FIRST)), (FIRST, SegmentNumber(767)));
}

#[test]
fn a_cut_or_flipped_pack_is_refused() {
    let whole = packed();
    for length in (0..whole.len()).step_by(97) {
        assert!(decode(whole.slice(..length), SIZE).is_err(), "cut at {length}");
    }
    let body = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap();
    for at in (0..body).step_by(61) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        assert!(decode(Bytes::from(bytes), SIZE).is_err(), "flipped at {at}");
    }
}

#[test]
fn a_pack_of_another_size_is_refused() {
    assert!(decode(packed(), Size(128)).is_err());
    assert!(decode(packed(), Size(512)).is_err());
}

#[test]
fn offsets_that_lie_are_refused() {
    let text = String::from_utf8(packed().to_vec()).unwrap();
    let body = text.trim_end().rfind('\n').unwrap() + 1;
    let edit = |change: fn(&mut Vec<u64>)| {
        let mut footer: Footer = serde_json::from_str(&text[body..]).unwrap();
        change(&mut footer.offsets);
        let bytes = format!("{}{}\n", &text[..body], serde_json::to_string(&footer).unwrap());
        decode(Bytes::from(bytes), SIZE)
    };
    assert!(edit(|_| {}).is_ok());
    assert!(edit(|offsets| offsets[0] = 0).is_err());
    assert!(edit(|offsets| offsets[5] = offsets[4]).is_err());
    assert!(edit(|offsets| *offsets.last_mut().unwrap() = u64::MAX).is_err());
    assert!(edit(|offsets| offsets.truncate(255)).is_err());
}
