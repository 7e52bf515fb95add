//! The set of active handlers, and its swap.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::domain::Digest;

fn active(name: &str, revision: u64, handler: Arc<Handler>) -> ActiveHandler {
    ActiveHandler { name: name.into(), revision, handler }
}

#[test]
fn handlers_are_found_by_kind_name_and_digest() {
    let projector = sandbox().load(&component("projector")).unwrap();
    let upcaster = sandbox().load(&component("upcaster")).unwrap();
    let set = Active::new([
        active("abuse", 1, decider()),
        active("abuse-projection", 1, projector.clone()),
        active("abuse-upcaster", 4, upcaster),
    ])
    .unwrap();
    assert_eq!(&*set.command_handler("Thing").unwrap().name, "abuse");
    assert_eq!(set.projection_handlers("Thing").len(), 1);
    assert_eq!(set.upcasters("Thing")[0].revision, 4);
    assert_eq!(&*set.by_digest(projector.digest()).unwrap().name, "abuse-projection");
    assert!(set.command_handler("Other").is_none() && set.projection_handlers("Other").is_empty());
    assert_eq!(
        set.iter().map(|handler| &*handler.name).collect::<Vec<_>>(),
        ["abuse", "abuse-projection", "abuse-upcaster"]
    );
}

#[test]
fn two_handlers_cannot_decide_for_one_kind() {
    let twice = Active::new([active("a", 1, decider()), active("b", 1, decider())]);
    assert!(matches!(twice, Err(CatalogError::KindTaken { .. })));
    let same = Active::new([active("a", 1, decider()), active("a", 2, decider())]);
    assert!(matches!(same, Err(CatalogError::NameTaken { .. })));
}

#[test]
fn a_swap_is_seen_whole_and_what_left_stays_loaded() {
    let catalog = Catalog::default();
    let digest = decider().digest();
    assert!(catalog.resolve(digest).is_none());
    catalog.replace(Active::new([active("abuse", 1, decider())]).unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for revision in 2..500 {
                catalog.replace(Active::new([active("abuse", revision, decider())]).unwrap());
            }
            stop.store(true, Ordering::Relaxed);
        });
        let mut latest = 0;
        while !stop.load(Ordering::Relaxed) {
            let set = catalog.active();
            let revision = set.command_handler("Thing").unwrap().revision;
            assert_eq!(set.get("abuse").unwrap().revision, revision);
            assert!(revision >= latest);
            latest = revision;
        }
    });
    catalog.replace(Active::default());
    assert_eq!(catalog.resolve(digest).unwrap().digest(), digest);
}

#[test]
fn a_handler_that_is_not_loaded_is_loaded_once() {
    let catalog = Catalog::default();
    let digest = decider().digest();
    let mut loads = 0;
    for _ in 0..2 {
        let handler = catalog.resolve_or_load::<Error>(digest, || {
            loads += 1;
            Ok(decider())
        });
        assert_eq!(handler.unwrap().digest(), digest);
    }
    assert_eq!(loads, 1);
    let failed = catalog.resolve_or_load(Digest::of(b"other"), || Err("gone"));
    assert_eq!(failed.unwrap_err(), "gone");
}
