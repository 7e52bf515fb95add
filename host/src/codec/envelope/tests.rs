//! Envelopes: the exact bytes, what comes back from them, and what is refused.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::codec::{ENVELOPE_BYTES_MAX, Error, fingerprint};

fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn line(draft: &Draft, sequence: u64) -> String {
    let mut out = Vec::new();
    draft.write_line(Sequence(sequence), &mut out);
    assert!(out.len() < draft.bytes_max());
    String::from_utf8(out).unwrap()
}

fn with_command<T>(edit: impl FnOnce(CommandDraft<'_>) -> T) -> T {
    let aggregate = Aggregate::parse("Instance", "shop:Product:p-1").unwrap();
    let payload = json(r#"{"data":{"name":"a\"b"}}"#);
    edit(CommandDraft {
        command_id: id(1),
        command_type: "CREATE_INSTANCE",
        aggregate: &aggregate,
        expected_seq: Some(0),
        payload: &payload,
        actor: "ann\n",
        occurred_at: Timestamp(1_765_929_600_000),
        correlation_id: "c-1",
        causation_id: None,
        traceparent: None,
        extra: None,
        topic: "instance_commands".into(),
        service: "api",
    })
}

#[test]
fn a_command_is_written_in_the_contracts_field_order() {
    let draft = with_command(|draft| draft.build().unwrap());
    assert_eq!(
        line(&draft, 10),
        "{\"event_id\":\"00000000-0000-0000-0000-000000000001\",\"event_type\":\"CREATE_INSTANCE_REQUESTED\",\
         \"aggregate_type\":\"Instance\",\"aggregate_id\":\"shop:Product:p-1\",\
         \"occurred_at\":\"2025-12-17T00:00:00.000Z\",\"actor\":\"ann\\n\",\
         \"data\":{\"command_id\":\"00000000-0000-0000-0000-000000000001\",\"command_type\":\"CREATE_INSTANCE\",\
         \"expected_seq\":0,\"payload\":{\"data\":{\"name\":\"a\\\"b\"}}},\
         \"metadata\":{\"kind\":\"command\",\"kafka_topic\":\"instance_commands\",\"service\":\"api\",\
         \"correlation_id\":\"c-1\"},\"schema_version\":\"1\",\"sequence_number\":10}"
    );
}

#[test]
fn a_command_reads_back() {
    let extra = json(r#"{"tenant":7,"issued":"2025"}"#);
    let draft = with_command(|draft| CommandDraft { extra: Some(&extra), traceparent: Some("00-a"), ..draft }.build());
    let text = line(&draft.unwrap(), u64::MAX);
    let envelope = Envelope::parse(text.as_bytes()).unwrap();
    assert_eq!((envelope.event_id, envelope.sequence_number), (id(1), Sequence(u64::MAX)));
    assert_eq!(envelope.actor, "ann\n");
    assert_eq!(envelope.aggregate().unwrap().to_string(), "Instance/shop:Product:p-1");
    let command = envelope.command().unwrap();
    assert_eq!((command.command_id, &*command.command_type, command.expected_seq), (id(1), "CREATE_INSTANCE", Some(0)));
    assert_eq!(command.payload.get(), r#"{"data":{"name":"a\"b"}}"#);
    let metadata = envelope.metadata().unwrap();
    assert_eq!((metadata.kind, &*metadata.kafka_topic), (EventKind::Command, "instance_commands"));
    assert_eq!((metadata.traceparent.as_deref(), metadata.issued), (Some("00-a"), None));
    assert!(envelope.metadata.get().contains(r#""tenant":7"#));
}

#[test]
fn a_domain_event_reads_back() {
    let aggregate = Aggregate::parse("Account", "a \u{e9}").unwrap();
    let handler = HandlerRef {
        name: "account".into(),
        version: "1.2.0".into(),
        digest: Digest::of(b"wasm"),
        revision: 3,
        upcasters: vec![],
    };
    let read = ReadRef {
        aggregate_type: "Instance".into(),
        aggregate_id: "db:C:x".into(),
        sequence_number: Sequence(0),
        handler_digest: None,
        upcasters: Default::default(),
    };
    let draft = DomainDraft {
        command_id: id(9),
        index: 1,
        event_type: "DEPOSITED",
        aggregate: &aggregate,
        occurred_at: Timestamp(1),
        actor: "ann",
        data: &json(r#"{"amount":1.50}"#),
        correlation_id: "c",
        causation_id: Some(id(9)),
        handler: Some(&handler),
        read_set: std::slice::from_ref(&read),
        traceparent: None,
        schema_version: "1.0.0",
        issued: Some(2),
        extra: None,
        topic: "account_events".into(),
        service: "instance_worker",
    }
    .build()
    .unwrap();
    let text = line(&draft, 2);
    let envelope = Envelope::parse(text.as_bytes()).unwrap();
    assert_eq!(envelope.event_id, crate::domain::derived_id::domain_event(id(9), 1));
    assert_eq!(envelope.data.get(), r#"{"amount":1.50}"#);
    let metadata = envelope.metadata().unwrap();
    assert_eq!((metadata.command_id, metadata.issued), (Some(id(9)), Some(2)));
    assert_eq!((metadata.handler, metadata.read_set), (Some(handler), vec![read]));
    assert!(envelope.aggregate_id.ends_with('\u{e9}'));
}

#[test]
fn reserved_metadata_is_refused() {
    for key in ["kind", "handler", "read_set", "command_id", "causation_id", "encryption", "service", "kafka_topic"] {
        let extra = json(&format!(r#"{{"x":1,"{key}":1}}"#));
        let refused = Error::ReservedMetadata { key: key.into() };
        assert_eq!(with_command(|d| CommandDraft { extra: Some(&extra), ..d }.build()).unwrap_err(), refused);
        assert_eq!(ClientMetadata::parse(&extra).unwrap_err(), refused);
    }
    assert_eq!(ClientMetadata::parse(&json("[]")).unwrap_err(), Error::MetadataNotObject);
    assert!(ClientMetadata::parse(&json(r#"{"traceparent":1}"#)).is_err());
}

#[test]
fn client_metadata_is_taken_apart() {
    let text = r#"{"b":{"c":1.0},"correlation_id":"x","a\u0041":[2],"traceparent":"t"}"#;
    let parsed = ClientMetadata::parse(&json(text)).unwrap();
    assert_eq!((parsed.correlation_id.as_deref(), parsed.traceparent.as_deref()), (Some("x"), Some("t")));
    assert_eq!(parsed.extra.unwrap().as_str(), r#"{"b":{"c":1.0},"aA":[2]}"#);
    assert!(ClientMetadata::parse(&Json::empty_object()).unwrap().extra.is_none());
}

#[test]
fn an_envelope_has_a_greatest_size() {
    let payload = json(&format!("\"{}\"", "x".repeat(ENVELOPE_BYTES_MAX)));
    let error = with_command(|d| CommandDraft { payload: &payload, ..d }.build()).unwrap_err();
    assert!(matches!(error, Error::TooLarge { max: ENVELOPE_BYTES_MAX, .. }), "{error}");
}

#[test]
fn the_fingerprint_is_of_the_content_alone() {
    let content = |draft: CommandDraft<'_>| draft.build().unwrap().fingerprint;
    let base = with_command(content);
    assert_eq!(base, with_command(|d| content(CommandDraft { actor: "bob", correlation_id: "z", ..d })));
    let spaced = json("{\"data\": {\"name\": \"\\u0061\\\"b\"}}");
    assert_eq!(base, with_command(|d| content(CommandDraft { payload: &spaced, ..d })));
    assert_ne!(base, with_command(|d| content(CommandDraft { expected_seq: None, ..d })));
    let aggregate = Aggregate::parse("Instance", "shop:Product:p-1").unwrap();
    let text = "{\"aggregate_id\":\"shop:Product:p-1\",\"aggregate_type\":\"Instance\",\
        \"command_type\":\"X\",\"expected_seq\":null,\"payload\":{\"a\":1,\"b\":2}}";
    assert_eq!(fingerprint::command("X", &aggregate, None, &json(r#"{"b":2.0,"a":1}"#)), Digest::of(text.as_bytes()));
}

#[test]
fn rubbish_is_no_envelope() {
    for text in ["", "{}", "[]", "{\"event_id\":1}", "\u{0}"] {
        assert!(Envelope::parse(text.as_bytes()).is_err());
    }
}
