//! The strict scanner against serde_json, and the tables of what is refused.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn refused(text: &str) -> (Reason, String) {
    let error = Json::parse(text.as_bytes()).unwrap_err();
    (error.reason, error.pointer)
}

#[test]
fn whitespace_goes_and_everything_else_stays() {
    for (text, compact) in [
        (" { \"a\" : [ 1 , 2.50 , \"x y\\u00e9\" ] , \"b\":{} }\n", r#"{"a":[1,2.50,"x y\u00e9"],"b":{}}"#),
        ("\t[]", "[]"),
        ("-0", "-0"),
        ("1E+3", "1E+3"),
        ("\"\\ud83d\\ude00\"", "\"\\ud83d\\ude00\""),
        (" true ", "true"),
    ] {
        assert_eq!(Json::parse(text.as_bytes()).unwrap().as_str(), compact);
    }
}

#[test]
fn numbers_pass_when_a_double_holds_them() {
    for token in [
        "0.1",
        "1e3",
        "9007199254740994",
        "9007199254740992",
        "1e23",
        "5e-324",
        "0e999999999999999999999",
        "1.0",
        "-0.0",
    ] {
        assert!(Json::parse(token.as_bytes()).is_ok(), "{token}");
    }
    for token in [
        "9007199254740993",
        "1e400",
        "0.1000000000000000055",
        "1e-400",
        "123456789012345678901234567890",
        "1e99999999999999999999",
    ] {
        assert_eq!(refused(&format!(r#"{{"a":[0,{token}]}}"#)), (Reason::InexactNumber, "/a/1".into()), "{token}");
    }
}

#[test]
fn what_readers_could_understand_differently_is_refused_with_its_place() {
    for (text, reason, pointer) in [
        (r#"{"a":{"b/c":1,"b\u002fc":2}}"#, Reason::DuplicateKey, "/a/b~1c"),
        (r#"["\ud800"]"#, Reason::LoneSurrogate, "/0"),
        (r#"["\ud800\u0041"]"#, Reason::LoneSurrogate, "/0"),
        (r#"["\udc00\ud800"]"#, Reason::LoneSurrogate, "/0"),
        ("{\"a\":\"\u{1}\"}", Reason::Syntax, "/a"),
        ("[01]", Reason::Syntax, "/0"),
        ("[1.]", Reason::Syntax, "/0"),
        ("[1,]", Reason::Syntax, "/1"),
        ("{\"a\":1,}", Reason::Syntax, ""),
        ("[1", Reason::Syntax, ""),
        ("", Reason::Syntax, ""),
        ("nul", Reason::Syntax, ""),
        ("1 2", Reason::Syntax, ""),
        (r#""\x""#, Reason::Syntax, ""),
    ] {
        assert_eq!(refused(text), (reason, pointer.to_owned()), "{text}");
    }
    assert_eq!(Json::parse(b"\"\xff\"").unwrap_err().reason, Reason::Encoding);
}

#[test]
fn a_duplicate_among_many_keys_is_found() {
    let mut members: Vec<String> = (0..40).map(|i| format!(r#""k{i}":{i}"#)).collect();
    assert!(Json::parse(format!("{{{}}}", members.join(",")).as_bytes()).is_ok());
    members.push(r#""k7":0"#.into());
    assert_eq!(refused(&format!(r#"[{{{}}}]"#, members.join(","))), (Reason::DuplicateKey, "/0/k7".into()));
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Json::parse(nested(DEPTH_MAX).as_bytes()).is_ok());
    assert_eq!(Json::parse(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err().reason, Reason::TooDeep);
    assert_eq!(Json::parse("[".repeat(1_000_000).as_bytes()).unwrap_err().reason, Reason::TooDeep);
}

/// The examples of RFC 8785, sections 3.2.2 and 3.2.3.
#[test]
fn the_canonical_form_is_that_of_rfc_8785() {
    let text = br#"{"numbers": [1e23, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#;
    let want = "{\"literals\":[null,true,false],\"numbers\":[1e+23,4.5,0.002,1e-27],\
        \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
    assert_eq!(String::from_utf8(Json::parse(text).unwrap().canonical()).unwrap(), want);
    let keys = "{\"\\u20ac\":1,\"\\r\":2,\"\\ufb33\":3,\"1\":4,\"\\ud83d\\ude00\":5,\"\\u0080\":6,\"\\u00f6\":7}";
    let want = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
    assert_eq!(String::from_utf8(Json::parse(keys.as_bytes()).unwrap().canonical()).unwrap(), want);
}

/// An independent way to the same form: serde_json's tree, keys sorted as UTF-16 vectors.
fn reference(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| key.encode_utf16().collect::<Vec<_>>());
            let members: Vec<String> =
                members.iter().map(|(key, value)| format!("{}:{}", json!(key), reference(value))).collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(reference).collect::<Vec<_>>().join(",")),
        Value::Number(number) => ryu_js::Buffer::new().format(number.as_f64().unwrap()).to_owned(),
        other => other.to_string(),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..20)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_survives_and_has_one_canonical_form(value in any_value()) {
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let json = Json::parse(pretty.as_bytes()).unwrap();
        prop_assert_eq!(json.as_str(), value.to_string());
        let canonical = String::from_utf8(json.canonical()).unwrap();
        prop_assert_eq!(&canonical, &reference(&value));
        let again = Json::parse(canonical.as_bytes()).unwrap();
        prop_assert_eq!(again.as_str(), &canonical);
        prop_assert_eq!(again.canonical(), canonical.into_bytes());
    }

    #[test]
    fn whatever_passes_is_json_for_serde_too(text in r#"[\[\]{}",:0-9eE.+\-\\utrfalsn d8c]{0,40}"#) {
        let ours = Json::parse(text.as_bytes());
        let theirs = serde_json::from_str::<Value>(&text);
        if let Ok(json) = &ours {
            prop_assert_eq!(json.to_value(), theirs.unwrap());
        } else if ours.unwrap_err().reason == Reason::Syntax {
            prop_assert!(theirs.is_err());
        }
    }

    #[test]
    fn exactness_is_equality_with_the_shortest_decimal(mantissa in 0u64.., shift in 0i32..25) {
        // Not `{:e}`: of two shortest forms equally near, ECMAScript takes the even one (913480661059445.25 is written
        // …445.2) and the standard library the other.
        let shortest = serde_json::to_string(&format!("{mantissa}e-{shift}").parse::<f64>().unwrap()).unwrap();
        let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let digits: u64 = format!("{whole}{fraction}").parse().unwrap();
        let exponent: i32 = exponent.parse::<i32>().unwrap() - i32::try_from(fraction.len()).unwrap();
        let token = format!("{mantissa}e-{shift}");
        prop_assert_eq!(Json::parse(token.as_bytes()).is_ok(), normal(mantissa, -shift) == normal(digits, exponent));
    }
}

#[test]
fn of_two_shortest_forms_the_even_one_counts() {
    assert!(Json::parse(b"913480661059445.20").is_ok());
    assert!(Json::parse(b"913480661059445.3").is_err());
}

/// `mantissa × 10^exponent` with a mantissa that does not end in 0.
fn normal(mut mantissa: u64, mut exponent: i32) -> (u64, i32) {
    while mantissa != 0 && mantissa.is_multiple_of(10) {
        mantissa /= 10;
        exponent += 1;
    }
    (mantissa, if mantissa == 0 { 0 } else { exponent })
}
