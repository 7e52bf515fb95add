//! What is refused at the door, and in which words.

use super::*;
use crate::domain::Digest;

#[test]
fn a_component_is_known_by_its_digest_and_describes_itself() {
    let bytes = component("decider");
    let handler = decider();
    assert_eq!(handler.digest(), Digest::of(&bytes));
    assert_eq!(handler.world(), World::Instance);
    assert_eq!(handler.world().to_string(), "instance-handler");
    assert_eq!((handler.description().name.as_str(), handler.description().version.as_str()), ("abuse", "0.1.0"));
    assert_eq!(sandbox().load(&component("projector")).unwrap().world(), World::Projection);
    assert_eq!(sandbox().load(&component("upcaster")).unwrap().world(), World::Upcaster);
}

#[test]
fn what_is_no_component_is_refused() {
    let core_module = b"\0asm\x01\0\0\0";
    let mut cut = component("upcaster");
    cut.truncate(cut.len() / 2);
    for bytes in [&b""[..], b"hello", b"\0asm", core_module, &cut] {
        match sandbox().load(bytes) {
            Err(Error::NotAComponent { message }) => assert!(!message.is_empty()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn damaged_components_are_refused_or_run_but_never_hurt() {
    let good = component("upcaster");
    // A fixed sequence of places and bits, so that a failure can be seen again.
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for round in 0..24 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let reach = if round % 2 == 0 { 400 } else { good.len() };
        let place = usize::try_from(random >> 8).unwrap() % reach;
        let mut bad = good.clone();
        bad[place] ^= 1 << (random % 8);
        if let Ok(handler) = sandbox().load(&bad) {
            let stored = StoredRef { name: "NOTED", schema_version: "1", data: "1" };
            drop(handler.upcast(stored));
        }
    }
    assert!(sandbox().load(&good).is_ok());
}

#[test]
fn a_component_that_is_too_large_is_not_looked_at() {
    let limits = Limits { component_bytes_max: 1_000, ..Limits::default() };
    let sandbox = Sandbox::new(Options { limits, cache_folder: None }).unwrap();
    assert!(matches!(sandbox.load(&component("decider")), Err(Error::TooLarge { max: 1_000, .. })));
}

#[test]
fn the_network_is_refused_by_name() {
    match sandbox().load(&component("sockets")) {
        Err(Error::RefusedImport { name, .. }) => assert!(name.starts_with("wasi:sockets/"), "{name}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn exports_must_fit_exactly_one_world() {
    for name in ["two_worlds", "no_world"] {
        match sandbox().load(&component(name)) {
            Err(Error::UnknownWorld { exports }) => assert_eq!(exports.is_empty(), name == "no_world", "{exports:?}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// `(component (core module (table 1000000 funcref)))`, `(… (memory 2000))` and `(… (memory 1 1 shared))`, by hand.
#[test]
fn a_module_that_declares_more_than_its_limits_is_refused() {
    let component_of = |section: &[u8]| {
        let module = [b"\0asm\x01\0\0\0", section].concat();
        let size = u8::try_from(module.len()).unwrap();
        [b"\0asm\x0d\0\x01\0", &[1u8, size][..], &module].concat()
    };
    let table = component_of(&[4, 6, 1, 0x70, 0, 0xc0, 0x84, 0x3d]);
    let memory = component_of(&[5, 4, 1, 0, 0xd0, 0x0f]);
    let shared = component_of(&[5, 4, 1, 3, 1, 1]);
    for (bytes, word) in [(table, "table"), (memory, "memory"), (shared, "thread")] {
        match sandbox().load(&bytes) {
            Err(Error::NotAComponent { message }) => assert!(message.contains(word), "{message}"),
            other => panic!("{word}: {other:?}"),
        }
    }
}

#[test]
fn compiled_code_is_kept_and_a_damaged_entry_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = component("upcaster");
    let upcast = || {
        let options = Options { cache_folder: Some(folder.path().to_owned()), ..Options::default() };
        let handler = Sandbox::new(options).unwrap().load(&bytes).unwrap();
        let stored = StoredRef { name: "NOTED", schema_version: "1", data: "1" };
        assert_eq!(handler.upcast(stored).unwrap().len(), 2);
    };
    let entries = || {
        let engine = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let entries = std::fs::read_dir(engine).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), std::fs::metadata(path).unwrap().modified().unwrap())).collect::<Vec<_>>()
    };
    upcast();
    let first = entries();
    assert_eq!(first.len(), 1);
    upcast();
    assert_eq!(entries(), first, "the second start compiled again");
    let good = std::fs::read(&first[0].0).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 0x40;
    std::fs::write(&first[0].0, bad).unwrap();
    upcast();
    assert_eq!(std::fs::read(&first[0].0).unwrap().len(), good.len(), "the damaged entry was not replaced");
    upcast();
}
