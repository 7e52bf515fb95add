//! Guests that loop, eat, recurse, crash, lie and flood: each ends alone, with the right word for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    assert_limit(decide("LOOP", "null"), LimitKind::Fuel);
    assert_limit(decider().evolve(None, &[event("LOOP", "null")]), LimitKind::Fuel);
}

#[test]
fn a_guest_with_fuel_to_spare_meets_its_deadline() {
    let limits = Limits { fuel: u64::MAX, wall_ms: 50, ..Limits::default() };
    let sandbox = Sandbox::new(Options { limits, cache_folder: None }).unwrap();
    let handler = sandbox.load(&component("decider")).unwrap();
    // The second comes after the ticker has gone to sleep.
    for pause_ms in [0, 1_500] {
        std::thread::sleep(Duration::from_millis(pause_ms));
        let begun = Instant::now();
        let decision = handler.decision(CONTEXT).unwrap();
        assert_limit(decision.decide(None, &command("LOOP", "null"), &[]), LimitKind::Time);
        assert!(begun.elapsed() >= Duration::from_millis(40), "the deadline came too early");
    }
}

#[test]
fn eating_memory_meets_the_limit() {
    assert_limit(decide("EAT_MEMORY", "null"), LimitKind::Memory);
    assert_limit(decide("GROW_MEMORY", "null"), LimitKind::Memory);
}

#[test]
fn growing_tables_meets_the_limit() {
    use wasmtime::ResourceLimiter as _;

    let limits = Limits { table_elements_max: 100, ..Limits::default() };
    let mut limiter = super::super::limits::Limiter::new(&limits);
    assert!(limiter.table_growing(0, 60, None).unwrap());
    assert!(!limiter.table_growing(60, 80, Some(70)).unwrap(), "the table's own maximum is no failure");
    assert!(limiter.table_growing(0, 41, None).is_err(), "the limit is over all tables");
    assert_eq!(limiter.met, Some(LimitKind::Tables));
}

#[test]
fn deep_recursion_ends_in_the_guest() {
    match decide("RECURSE", "null") {
        Err(Failure::Limit { which: LimitKind::Stack | LimitKind::Fuel, .. } | Failure::Trap { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn panic_exit_and_abort_are_traps() {
    assert_trap(decide("PANIC", "null"), "panic: this handler gives up");
    assert_trap(decide("EXIT", "null"), "exit");
    assert_trap(decide("ABORT", "null"), "unreachable");
}

#[test]
fn an_instance_that_trapped_is_not_used_again() {
    let mut decision = decider().decision(CONTEXT).unwrap();
    assert_trap(decision.needs(&command("PANIC_IN_NEEDS", "null"), None, &[]), "needs nothing");
    assert_trap(decision.decide(None, &command("ECHO", "1"), &[]), "failed before");
}

#[test]
fn too_much_output_is_refused_before_it_costs_memory() {
    assert_eq!(noted(decide("BYTES", "700000")).len(), 700_002);
    assert_limit(decide("BYTES", "900000"), LimitKind::Output);
    assert_limit(decide("EVENTS", "1001"), LimitKind::Count);
    assert_limit(decide("EVENTS", "100000"), LimitKind::Count);
    match decide("EVENTS", "1000000") {
        Err(Failure::Limit { which: LimitKind::Memory | LimitKind::Output, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_limit(decide("COMMANDS", "10001"), LimitKind::Count);
    assert_limit(decide("HEADERS", "33"), LimitKind::Count);
}

#[test]
fn a_copy_beyond_the_limit_is_not_made() {
    let limits = Limits { output_bytes_max: 1 << 20, item_bytes_max: usize::MAX, ..Limits::default() };
    let sandbox = Sandbox::new(Options { limits, cache_folder: None }).unwrap();
    let handler = sandbox.load(&component("decider")).unwrap();
    let decide = |bytes: &str| handler.decision(CONTEXT).unwrap().decide(None, &command("BYTES", bytes), &[]);
    assert_eq!(noted(decide("1000000")).len(), 1_000_002);
    assert_limit(decide("1100000"), LimitKind::Output);
}

#[test]
fn rubbish_is_a_fault() {
    assert_fault(decide("RUBBISH", "null"), "invalid-output", "NOTED");
    assert_fault(decide("DEEP", "null"), "invalid-output", "nesting");
    assert_fault(decide("RUBBISH_COMMAND", "null"), "invalid-output", "ECHO");
    assert_fault(decide("COMMAND_FOR", "\"Operations\""), "invalid-output", "streams of Operations");
    assert_fault(decide("UNDECLARED", "null"), "invalid-output", "SURPRISE 1.0.0 is not declared");
    assert_fault(decide("FORGE", "null"), "invalid-output", "COMMAND_");
    assert_fault(decide("NOTHING", "null"), "invalid-output", "unchanged");
    assert_fault(decide("REJECT", "0"), "invalid-output", "without a problem");
    assert_fault(decider().evolve(None, &[event("RUBBISH", "null")]), "invalid-output", "state");
    let mut decision = decider().decision(CONTEXT).unwrap();
    assert_fault(decision.needs(&command("READ_RUBBISH", "null"), None, &[]), "invalid-output", "aggregate_type");
    assert_limit(decision.needs(&command("READ_MANY", "null"), None, &[]), LimitKind::Count);
}

#[test]
fn a_handlers_own_fault_keeps_its_code() {
    assert_fault(decide("FAULT", "null"), "corrupt-state", "cannot go on");
    assert_fault(decide("NO_SUCH_COMMAND", "null"), "unknown-command", "NO_SUCH_COMMAND");
}

#[test]
fn a_refusal_is_no_failure_and_stays_readable() {
    match decide("REJECT", "250").unwrap() {
        Verdict::Rejected(problems) => {
            assert_eq!(problems.len(), 101);
            assert_eq!(problems[0].code, "no");
            assert_eq!(problems[100].message, "150 more problems are not shown");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(decide("UNCHANGED", "null"), Ok(Verdict::Unchanged)));
}

#[test]
fn a_flood_of_log_lines_changes_nothing() {
    assert_eq!(noted(decide("CHATTER", "2000")), "1");
}

#[test]
fn sleeping_takes_no_time() {
    let begun = Instant::now();
    assert_eq!(noted(decide("SLEEP", "null")), "1");
    assert!(begun.elapsed() < Duration::from_secs(60), "the guest slept for real");
}

#[test]
fn calling_what_the_world_lacks_is_a_fault() {
    assert_fault(decider().compare("{}", "{}"), "wrong-world", "compare");
    assert_fault(decider().projecting().unwrap().project(&[], &[]), "wrong-world", "project");
}

#[test]
fn others_are_served_while_handlers_misbehave() {
    let done = AtomicBool::new(false);
    let handler = decider();
    std::thread::scope(|scope| {
        for bad in ["LOOP", "EAT_MEMORY", "PANIC", "RECURSE"] {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert!(decide(bad, "null").is_err());
                }
            });
        }
        for index in 0..200 {
            let payload = format!("{{\"index\":{index}}}");
            assert_eq!(noted(decide("ECHO", &payload)), payload);
        }
        done.store(true, Ordering::Relaxed);
    });
    // Nothing the bad ones took is missing: as many as the pool holds can be open at once.
    let open: Vec<_> =
        (0..Limits::default().instances_max).map(|_| handler.decision(CONTEXT)).collect::<Result<_, _>>().unwrap();
    assert_eq!(open.len(), 128);
}

#[test]
fn more_instances_than_the_pool_holds_are_told_to_come_back() {
    let limits = Limits { instances_max: 2, ..Limits::default() };
    let sandbox = Sandbox::new(Options { limits, cache_folder: None }).unwrap();
    let handler = sandbox.load(&component("decider")).unwrap();
    let first = handler.decision(CONTEXT).unwrap();
    let _second = handler.decision(CONTEXT).unwrap();
    let failure = handler.decision(CONTEXT).unwrap_err();
    assert_eq!(crate::error::Classified::kind(&failure), crate::error::Kind::Unavailable, "{failure}");
    drop(first);
    assert!(handler.decision(CONTEXT).is_ok());
}

#[test]
fn a_projection_that_lies_is_a_fault() {
    let projector = sandbox().load(&component("projector")).unwrap();
    let project = |name: &str| projector.projecting().unwrap().project(&[event(name, "1"), event("NOTED", "2")], &[]);
    for (name, words) in [
        ("RUBBISH", "a document: no JSON at"),
        ("DEEP", "deeper nesting"),
        ("ARRAY", "no JSON object"),
        ("FUTURE", "cause 7"),
        ("BACKWARDS", "never decrease"),
        ("FOREIGN", "others"),
        ("EMPTY_ID", "empty"),
    ] {
        assert_fault(project(name), "invalid-output", words);
    }
    assert_limit(project("MANY"), LimitKind::Count);
}

#[test]
fn a_projection_reads_documents_and_answers_with_causes() {
    let projector = sandbox().load(&component("projector")).unwrap();
    let events = [event("NOTED", "1"), event("NOTED", "2")];
    let mut projecting = projector.projecting().unwrap();
    let keys = projecting.needs(&events).unwrap();
    assert_eq!(keys.len(), 2);
    let documents = [FetchedDocument { key: &keys[0], body: "{\"old\":true}" }];
    let changes = projecting.project(&events, &documents).unwrap();
    assert_eq!(changes.iter().map(|change| change.cause).collect::<Vec<_>>(), [0, 0, 1, 1, 1]);
    match &changes[0].change {
        crate::port::read_model::Change::Put { body, .. } => assert_eq!(body.get(), "{\"old\":true}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_upcaster_splits_events_and_is_bounded() {
    let upcaster = sandbox().load(&component("upcaster")).unwrap();
    let upcast = |data| upcaster.upcast(StoredRef { name: "NOTED", schema_version: "1", data });
    let newer = upcast("{\"a\":1}").unwrap();
    assert_eq!(newer.len(), 2);
    assert_eq!((newer[0].schema_version.as_str(), newer[0].data.as_str()), ("2.0.0", "{\"a\":1}"));
    assert_limit(upcast("\"many\""), LimitKind::Count);
    assert_fault(upcast("\"other\""), "invalid-output", "SURPRISE");
}
