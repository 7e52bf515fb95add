//! Tokens, cursors and filters: what clients hand back.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::domain::Position;
use crate::port::read_model::Operator;

#[test]
fn tokens_come_back_as_they_were() {
    let tokens = [
        Token::Command(Uuid::from_u128(0x0190_aaaa_bbbb_7ccc_8ddd_eeee_eeee_eeee)),
        Token::Positions(vec![(Partition(0), Position(0))]),
        Token::Positions(vec![(Partition(0), Position(17)), (Partition(7), Position(u64::MAX))]),
    ];
    for token in tokens {
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
    }
}

#[test]
fn texts_that_are_no_token_are_refused() {
    for text in ["", "c1.", "c1.xyz", "p1", "p1.", "p1.0", "p1.0-", "p1.-1-2", "p1.+0-1", "p1.70000-1", "p2.0-1"] {
        assert!(Token::decode(text).is_err(), "{text:?}");
    }
    let many = format!("p1{}", ".0-1".repeat(5_000));
    assert!(Token::decode(&many).is_err());
}

#[test]
fn a_cursor_belongs_to_a_log_with_its_number_of_partitions() {
    let mut cursor = Cursor::start(3);
    cursor.advance(Partition(1), Position(5));
    cursor.advance(Partition(1), Position(2));
    assert_eq!(cursor.next(Partition(1)), Position(5));
    assert_eq!(Cursor::decode(&cursor.encode(), 3).unwrap(), cursor);
    assert!(Cursor::decode(&cursor.encode(), 2).is_err());
    assert!(Cursor::decode(&cursor.encode(), 4).is_err());
    for text in ["", "e1", "e1.", "e1.x.0.0", "e1.+1.0.0", "17"] {
        assert!(Cursor::decode(text, 3).is_err(), "{text:?}");
    }
}

#[test]
fn filters_read_field_operator_and_value() {
    for (text, path, operator, value) in [
        ("price<=10.5", vec!["data", "price"], Operator::LessOrEqual, json!(10.5)),
        ("price<10", vec!["data", "price"], Operator::Less, json!(10)),
        ("price>=10", vec!["data", "price"], Operator::GreaterOrEqual, json!(10)),
        ("price>10", vec!["data", "price"], Operator::Greater, json!(10)),
        ("name=a=b", vec!["data", "name"], Operator::Equal, json!("a=b")),
        ("name!=x", vec!["data", "name"], Operator::NotEqual, json!("x")),
        ("sku=\"42\"", vec!["data", "sku"], Operator::Equal, json!("42")),
        ("on=true", vec!["data", "on"], Operator::Equal, json!(true)),
        ("gone=null", vec!["data", "gone"], Operator::Equal, json!(null)),
        ("name=", vec!["data", "name"], Operator::Equal, json!("")),
        ("data.instance_id=x", vec!["data", "instance_id"], Operator::Equal, json!("x")),
        ("instance_id=x", vec!["instance_id"], Operator::Equal, json!("x")),
        ("address.city=Ulm", vec!["data", "address", "city"], Operator::Equal, json!("Ulm")),
        ("tags=[1]", vec!["data", "tags"], Operator::Equal, json!("[1]")),
    ] {
        let filter = filter::parse_of_instances(text).unwrap();
        assert_eq!(
            (filter.path, filter.operator, filter.value),
            (path.iter().map(ToString::to_string).collect(), operator, value),
            "{text}"
        );
    }
}

#[test]
fn filters_without_a_field_or_an_operator_are_refused() {
    for text in ["", "price", "=1", "a..b=1", ".a=1", "price!1", &format!("a={}", "x".repeat(2_000))] {
        assert!(filter::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_scope_with_databases_hides_what_is_outside_them() {
    let shop = Aggregate::parse("Instance", "shop:Product:p1").unwrap();
    let account = Aggregate::parse("Account", "a1").unwrap();
    let scope = Scope { databases: Some(vec!["shop".to_owned()].into()), ..Scope::default() };
    assert!(scope.allows(&shop) && !scope.allows(&account));
    let other = Scope { databases: Some(vec!["sho".to_owned()].into()), ..Scope::default() };
    assert!(!other.allows(&shop));
    assert!(Scope::default().allows(&shop) && Scope::default().allows(&account));
}

proptest! {
    #[test]
    fn what_clients_send_never_panics(text in "\\PC{0,40}") {
        let _ = Token::decode(&text);
        let _ = Cursor::decode(&text, 4);
        let _ = filter::parse(&text);
    }

    #[test]
    fn cursors_round_trip(places in proptest::collection::vec(0u64.., 1..8)) {
        let partitions = u16::try_from(places.len()).unwrap();
        let mut cursor = Cursor::start(partitions);
        for (partition, place) in places.iter().enumerate() {
            cursor.advance(Partition(u16::try_from(partition).unwrap()), Position(*place));
        }
        prop_assert_eq!(Cursor::decode(&cursor.encode(), partitions).unwrap(), cursor);
    }
}
