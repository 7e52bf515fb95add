//! Rules of acceptance that need no log: ids of commands and instances, expectations, names.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::domain::{ClassName, derived_id};
use crate::error::{Classified, Kind};

const ID: &str = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee";

fn resolve(body: Option<&str>, key: Option<&str>) -> Result<Identity, Error> {
    Identity::resolve(body, key, || Uuid::from_u128(7))
}

#[test]
fn a_uuid_key_is_the_command_id_and_any_other_key_is_derived() {
    assert_eq!(resolve(None, Some(ID)).unwrap(), Identity { command_id: ID.parse().unwrap(), made: false });
    assert_eq!(resolve(Some(ID), None).unwrap().command_id.to_string(), ID);
    assert_eq!(resolve(None, Some("order 17")).unwrap().command_id, derived_id::idempotency_key("order 17"));
    let simple = ID.replace('-', "");
    assert_eq!(resolve(None, Some(&simple)).unwrap().command_id, derived_id::idempotency_key(&simple));
    assert_eq!(resolve(None, None).unwrap(), Identity { command_id: Uuid::from_u128(7), made: true });
}

#[test]
fn a_key_and_a_body_that_name_different_commands_are_refused() {
    assert!(resolve(Some(ID), Some(ID)).is_ok());
    let error = resolve(Some(ID), Some("another")).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Invalid, "contradicting_request"));
}

#[test]
fn keys_and_ids_of_the_wrong_form_are_refused() {
    assert!(resolve(None, Some(&"k".repeat(255))).is_ok());
    assert!(resolve(None, Some(&"ü".repeat(255))).is_ok());
    for key in ["", "tab\there", &"k".repeat(256)] {
        assert!(resolve(None, Some(key)).is_err(), "{key:?}");
    }
    for id in ["", "17", &ID.replace('-', ""), &format!("{{{ID}}}"), &format!("urn:uuid:{ID}")] {
        assert!(resolve(Some(id), None).is_err(), "{id:?}");
    }
}

fn instance_of(class: &str, data: &str) -> Result<String, Error> {
    let data: &RawValue = serde_json::from_str(data).unwrap();
    let class = ClassName::parse(class).unwrap();
    instance_id::of_create(&class, data, Uuid::from_u128(7)).map(|id| id.to_string())
}

#[test]
fn an_instance_is_named_by_its_class_then_by_the_first_id_then_by_its_command() {
    for (data, want) in [
        (r#"{"a_id":"first","product_id":"p1"}"#, "p1"),
        (r#"{"b_id":"second","a_id":"first"}"#, "first"),
        (r#"{"Z_id":"upper","a_id":"lower"}"#, "upper"),
        (r#"{"product_id":null,"b_id":"second"}"#, "second"),
        (r#"{"product_id":42}"#, "42"),
        (r#"{"product_id":"\u0070x"}"#, "px"),
    ] {
        assert_eq!(instance_of("Product", data).unwrap(), want, "{data}");
    }
    let derived = derived_id::instance(Uuid::from_u128(7)).to_string();
    for data in ["{}", r#"{"id":"x","name":"y"}"#, r#"{"product_id":null}"#] {
        assert_eq!(instance_of("Product", data).unwrap(), derived, "{data}");
    }
}

#[test]
fn a_member_that_should_name_the_instance_but_cannot_is_refused() {
    for data in [
        r#"{"product_id":""}"#,
        r#"{"product_id":" p1"}"#,
        r#"{"product_id":"a/b"}"#,
        r#"{"product_id":1.5}"#,
        r#"{"product_id":-1}"#,
        r#"{"product_id":["p1"]}"#,
        r#"{"product_id":true}"#,
        r#"{"owner_id":{"id":"x"}}"#,
    ] {
        let error = instance_of("Product", data).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{data}");
    }
}

#[test]
fn creates_expect_nothing_updates_must_say_and_others_may() {
    for (command, given, want) in [
        ("CREATE_INSTANCE", None, Expected::Client(0)),
        ("CREATE_INSTANCE", Some(3), Expected::Client(3)),
        ("BULK_CREATE_INSTANCES", None, Expected::Client(0)),
        ("UPDATE_INSTANCE", None, Expected::Missing),
        ("DELETE_DATABASE", None, Expected::Missing),
        ("UPDATE_INSTANCE", Some(0), Expected::Client(0)),
        ("DEPOSIT", None, Expected::Any),
        ("DEPOSIT", Some(9), Expected::Client(9)),
    ] {
        assert_eq!(expectation(command, given).unwrap(), want, "{command} {given:?}");
    }
    assert!(expectation("DEPOSIT", Some(1 << 53)).is_err());
}

#[test]
fn a_batch_is_named_by_its_command() {
    let id: Uuid = ID.parse().unwrap();
    let batch = Aggregate::parse("InstanceBatch", &format!("shop:Product:{ID}")).unwrap();
    assert!(check_batch(&batch, id).is_ok());
    assert!(check_batch(&batch, Uuid::from_u128(7)).is_err());
    let other = Aggregate::parse("Instance", "shop:Product:x").unwrap();
    assert!(check_batch(&other, id).is_ok());
}

#[test]
fn trace_parents_are_taken_as_w3c_writes_them() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert!(is_traceparent(good));
    for bad in [
        "",
        "00",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
    ] {
        assert!(!is_traceparent(bad), "{bad}");
    }
}

#[test]
fn bundled_commands_put_the_address_into_the_payload() {
    let key = bundled::InstanceKey::parse("shop", "Product", "p1").unwrap();
    let data: &RawValue = serde_json::from_str(r#"{ "price": 1.50 }"#).unwrap();
    let create = bundled::create_instance(&key, data).unwrap();
    assert_eq!(create.aggregate.to_string(), "Instance/shop:Product:p1");
    let want = r#"{"db_name":"shop","class_id":"Product","instance_id":"p1","data":{"price":1.50}}"#;
    assert_eq!(create.payload.as_str(), want);
    let delete = bundled::delete_instance(&key).unwrap();
    assert_eq!(delete.payload.as_str(), r#"{"db_name":"shop","class_id":"Product","instance_id":"p1"}"#);
}

#[test]
fn numbers_that_a_double_cannot_hold_are_refused_where_they_stand() {
    let key = bundled::InstanceKey::parse("shop", "Product", "p1").unwrap();
    let data: &RawValue = serde_json::from_str(r#"{"n":9007199254740993}"#).unwrap();
    match bundled::create_instance(&key, data).unwrap_err() {
        Error::Json(error) => assert_eq!(error.pointer, "/data/n"),
        other => panic!("{other}"),
    }
}

proptest! {
    #[test]
    fn naming_an_instance_never_panics_and_gives_only_instance_ids(
        members in proptest::collection::btree_map("[a-z]{0,4}(_id)?", "\\PC{0,8}", 0..6)
    ) {
        let data = serde_json::to_string(&members).unwrap();
        if let Ok(id) = instance_of("Product", &data) {
            prop_assert!(crate::domain::InstanceId::parse(&id).is_ok());
        }
    }
}
