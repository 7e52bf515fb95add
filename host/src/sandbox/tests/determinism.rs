//! Keeps I8: what a guest can learn comes from its inputs, and two calls share nothing.

use super::*;

fn probe(context: CallContext) -> serde_json::Value {
    serde_json::from_str(&noted(decide_with(context, "PROBE", "null"))).unwrap()
}

#[test]
fn a_guest_sees_the_commands_time_and_nothing_of_the_machine() {
    let seen = probe(CONTEXT);
    assert_eq!(seen["now"], serde_json::json!([1_765_929_600, 123_000_000]));
    assert_eq!(seen["clock"], seen["now"]);
    assert_eq!(seen["time_passes"], true);
    for absent in ["variables", "arguments", "input"] {
        assert_eq!(seen[absent], 0, "{absent}");
    }
    for absent in ["thread", "file", "folder"] {
        assert_eq!(seen[absent], false, "{absent}");
    }
}

#[test]
fn the_same_call_gives_the_same_bytes_in_every_engine() {
    let first = noted(decide("PROBE", "null"));
    assert_eq!(noted(decide("PROBE", "null")), first);
    let other = Sandbox::new(Options::default()).unwrap().load(&component("decider")).unwrap();
    let again = other.decision(CONTEXT).unwrap().decide(None, &command("PROBE", "null"), &[]);
    assert_eq!(noted(again), first);
}

#[test]
fn random_numbers_follow_the_seed_and_hash_order_does_not() {
    let (one, two) = (probe(CONTEXT), probe(CallContext { seed: (7, 10), ..CONTEXT }));
    assert_ne!(one["random"], two["random"]);
    assert_ne!(one["bytes"], two["bytes"]);
    assert_eq!(one["order"], two["order"]);
    // The algorithm is part of the contract: a replay in ten years draws these numbers.
    assert_eq!(one["random"], serde_json::json!(RANDOM_OF_7_9));
}

/// Computed by another implementation of the algorithm.
const RANDOM_OF_7_9: [&str; 3] = ["14272496521611070548", "16395438247039100509", "4812409832358971810"];

#[test]
fn statics_do_not_leak_from_one_command_into_the_next() {
    for _ in 0..3 {
        assert_eq!(noted(decide("COUNT_CALLS", "null")), "1");
        let state = decider().evolve(None, &[event("COUNT_CALLS", "null")]).unwrap();
        assert_eq!(state.unwrap().as_str(), "1");
    }
}

#[test]
fn the_rounds_of_one_command_share_an_instance() {
    let handler = decider();
    let mut decision = handler.decision(CONTEXT).unwrap();
    for _ in 0..2 {
        assert!(decision.needs(&command("COUNT_CALLS", "null"), None, &[]).unwrap().is_empty());
    }
    assert_eq!(noted(decision.decide(None, &command("COUNT_CALLS", "null"), &[])), "3");
}

#[test]
fn what_was_read_reaches_the_decision() {
    let handler = decider();
    let mut decision = handler.decision(CONTEXT).unwrap();
    let wanted = decision.needs(&command("READ_ONE", "null"), None, &[]).unwrap();
    assert_eq!(wanted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Thing/t-1"]);
    let read =
        ReadValue { source: AggregateRef::from(&wanted[0]), seq: 4, schema_version: "1.0.0", state: Some("\"there\"") };
    assert!(decision.needs(&command("READ_ONE", "null"), None, &[read]).unwrap().is_empty());
    assert_eq!(noted(decision.decide(None, &command("SEE_READS", "null"), &[read])), "\"\\\"there\\\"\"");
}

#[test]
fn folding_in_one_batch_or_in_two_gives_the_same_state() {
    let deposit = |amount: i64| format!("{{\"amount\":{amount},\"note\":\"n\",\"tags\":[]}}");
    let data: Vec<String> = (1..=5).map(deposit).collect();
    let events: Vec<_> = data.iter().map(|data| event("DEPOSITED", data)).collect();
    let handler = decider();
    let whole = handler.evolve(None, &events).unwrap().unwrap();
    let half = handler.evolve(None, &events[..2]).unwrap().unwrap();
    let rest = handler.evolve(Some(half.as_str()), &events[2..]).unwrap().unwrap();
    assert_eq!(whole, rest);
    assert!(whole.as_str().contains("\"balance\":15"), "{whole:?}");
    assert_eq!(handler.evolve(Some(half.as_str()), &[event("FORGET", "null")]).unwrap(), None);
}

#[test]
fn not_a_number_has_one_representation() {
    assert_eq!(probe(CONTEXT)["nan"], f64::NAN.to_bits().to_string());
}
