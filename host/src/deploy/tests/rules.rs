//! What may be uploaded, and what may be active beside what is active.

use super::{account, activated, contract, digest, statements, uploaded};
use crate::deploy::check::{
    Ask, Candidate, Handlers, Judged, Refusal, activation_refusals, judge, upload_refusals, upload_warnings,
};
use crate::deploy::fold::{Fact, fold, step};
use crate::deploy::record::{self, Finding, Manifest};
use crate::domain::{Sequence, Timestamp};

const INSTANCE: &str = "instance-handler";
const PROJECTION: &str = "projection-handler";
const UPCASTER: &str = "upcaster-handler";

/// Handlers as they come to be: each entry uploads a version (named by its digest) and, if it says so, activates it.
#[derive(Default)]
struct World(Handlers);

impl World {
    fn upload(mut self, name: &str, n: u8, world: &str, manifest: &Manifest) -> World {
        self.push(name, record::UPLOADED, uploaded(digest(n), &format!("{n}.0.0"), world, manifest));
        self
    }

    fn activate(mut self, name: &str, n: u8) -> World {
        self.push(name, record::ACTIVATED, activated(digest(n), 1));
        self
    }

    fn push(&mut self, name: &str, event_type: &str, data: serde_json::Value) {
        let deployment = self.0.entry(name.into()).or_insert_with(|| fold(name, []));
        let sequence = Sequence(deployment.last.0 + 1);
        let data = data.to_string();
        step(deployment, Fact { sequence, at: Timestamp(0), actor: "bob", event_type, data: &data });
    }

    /// Codes of what speaks against the activation.
    fn against(&self, name: &str, n: u8) -> Vec<String> {
        codes(&activation_refusals(name, digest(n), &self.0))
    }
}

fn codes(found: &[Finding]) -> Vec<String> {
    found.iter().map(|finding| finding.code.clone()).collect()
}

fn refused(name: &str, world: &str, manifest: &Manifest) -> Vec<String> {
    codes(&upload_refusals(name, world, manifest, &Handlers::new()))
}

fn with(change: impl FnOnce(&mut Manifest)) -> Manifest {
    let mut manifest = account(&["1.0.0"], &["1.0.0"], "1.0.0");
    change(&mut manifest);
    manifest
}

#[test]
fn a_sound_manifest_is_accepted() {
    assert_eq!(refused("account", INSTANCE, &with(|_| ())), Vec::<String>::new());
    assert_eq!(refused("statements", PROJECTION, &statements(&["1"], "statements")), Vec::<String>::new());
    let bundled = ["Instance", "InstanceBatch", "OntologyClass", "Database"].map(String::from).to_vec();
    assert_eq!(refused("all", INSTANCE, &with(|m| m.kinds = bundled)), Vec::<String>::new());
}

#[test]
fn each_broken_contract_is_refused_by_its_name() {
    for (change, code) in [
        ((|m: &mut Manifest| m.kinds = vec!["Ontology".into()]) as fn(&mut Manifest), "topic_taken"),
        (|m| m.folds.clear(), "emits_not_folded"),
        (|m| m.emits[0].versions = vec!["1.0.1".into()], "emits_not_folded"),
        (|m| m.reads = vec![contract("Account", &["0.9.0"])], "own_state_not_read"),
    ] {
        assert_eq!(refused("account", INSTANCE, &with(change)), [code]);
    }
}

/// An upcaster of deposits.
fn upcaster(takes: &[&str], makes: &[&str]) -> Manifest {
    Manifest {
        kinds: vec!["Account".into()],
        folds: vec![contract("DEPOSITED", takes)],
        emits: vec![contract("DEPOSITED", makes)],
        ..Manifest::default()
    }
}

#[test]
fn an_upcaster_lets_a_handler_do_without_older_versions() {
    let world = World::default()
        .upload("account", 1, INSTANCE, &account(&["1"], &["1"], "1"))
        .upload("account", 2, INSTANCE, &account(&["2"], &["2"], "1"))
        .upload("account", 3, INSTANCE, &account(&["4"], &["4"], "1"))
        .upload("newer", 4, UPCASTER, &upcaster(&["1"], &["2"]))
        .upload("newest", 5, UPCASTER, &upcaster(&["2", "3"], &["3", "4"]))
        .activate("account", 1);
    assert_eq!(world.against("account", 2), ["event_not_folded"]);
    let found = activation_refusals("account", digest(2), &world.0);
    let words = &found[0].message;
    assert!(words.contains("DEPOSITED 1 was emitted by account 1.0.0") && words.contains("folds 2"), "{words}");
    let world = world.activate("newer", 4);
    assert_eq!(world.against("account", 2), Vec::<String>::new());
    assert_eq!(world.against("account", 3), ["event_not_folded"], "2 leads nowhere yet");
    let world = world.activate("account", 2).activate("newest", 5);
    assert_eq!(world.against("account", 3), Vec::<String>::new(), "by 2 and 3 to 4");
}

#[test]
fn an_upcaster_on_which_an_active_reader_depends_is_not_replaced_by_one_that_leads_elsewhere() {
    let world = World::default()
        .upload("account", 1, INSTANCE, &account(&["1"], &["1"], "1"))
        .upload("account", 2, INSTANCE, &account(&["2"], &["2"], "1"))
        .upload("newer", 3, UPCASTER, &upcaster(&["1"], &["2"]))
        .upload("newer", 4, UPCASTER, &upcaster(&["1"], &["3"]))
        .upload("newer", 5, UPCASTER, &upcaster(&["1"], &["2", "3"]))
        .upload("other", 6, UPCASTER, &upcaster(&["1.0.0"], &["5"]))
        .activate("account", 1)
        .activate("newer", 4);
    assert_eq!(world.against("newer", 3), Vec::<String>::new(), "account 1 needs none");
    let world = world.activate("newer", 3).activate("account", 2);
    assert_eq!(world.against("newer", 4), ["event_not_folded"]);
    assert_eq!(world.against("newer", 5), Vec::<String>::new());
    assert_eq!(world.against("other", 6), ["upcast_taken"]);
}

#[test]
fn an_event_that_is_split_reaches_a_reader_of_all_its_parts() {
    let split = Manifest {
        kinds: vec!["Account".into()],
        folds: vec![contract("DEPOSITED", &["1"])],
        emits: vec![contract("PAID", &["1"]), contract("CREDITED", &["1"])],
        ..Manifest::default()
    };
    let reader = |names: &[&str]| {
        with(|m| {
            m.folds = names.iter().map(|name| contract(name, &["1"])).collect();
            m.emits = m.folds.clone();
        })
    };
    let world = World::default()
        .upload("account", 1, INSTANCE, &account(&["1"], &["1"], "1"))
        .upload("account", 2, INSTANCE, &reader(&["PAID"]))
        .upload("account", 3, INSTANCE, &reader(&["PAID", "CREDITED"]))
        .upload("split", 4, UPCASTER, &split)
        .activate("account", 1)
        .activate("split", 4);
    assert_eq!(world.against("account", 2), ["event_not_folded"]);
    assert_eq!(world.against("account", 3), Vec::<String>::new());
}

#[test]
fn a_name_belongs_to_the_world_that_took_it_first() {
    let manifest = with(|_| ());
    let all = World::default().upload("account", 1, INSTANCE, &manifest).0;
    let projection = statements(&["1"], "statements");
    assert_eq!(codes(&upload_refusals("account", PROJECTION, &projection, &all)), ["name_taken"]);
    assert_eq!(codes(&upload_refusals("account", INSTANCE, &manifest, &all)), Vec::<String>::new());
}

#[test]
fn two_active_handlers_never_decide_for_one_type_nor_write_one_collection() {
    let manifest = with(|_| ());
    let world = World::default().upload("account", 1, INSTANCE, &manifest).upload("bank", 2, INSTANCE, &manifest);
    assert_eq!(world.against("bank", 2), Vec::<String>::new(), "the other is not active yet");
    let world = world.activate("account", 1);
    assert_eq!(world.against("bank", 2), ["kind_taken"]);
    assert_eq!(world.against("account", 1), Vec::<String>::new());

    let world = World::default()
        .upload("a", 1, PROJECTION, &statements(&["1"], "shared"))
        .upload("b", 2, PROJECTION, &statements(&["1"], "shared"))
        .upload("c", 3, PROJECTION, &statements(&["1"], "own"))
        .activate("a", 1);
    assert_eq!(world.against("b", 2), ["collection_taken"]);
    assert_eq!(world.against("c", 3), Vec::<String>::new());
}

#[test]
fn readers_of_a_state_come_before_its_writers() {
    let reader = |versions: &[&str]| Manifest {
        kinds: vec!["Loan".into()],
        reads: vec![contract("Account", versions)],
        ..Manifest::default()
    };
    let world = World::default()
        .upload("account", 1, INSTANCE, &account(&["1"], &["1"], "1.0.0"))
        .upload("account", 2, INSTANCE, &account(&["1"], &["1"], "2.0.0"))
        .upload("loan", 3, INSTANCE, &reader(&["1"]))
        .upload("loan", 4, INSTANCE, &reader(&["1.0.0", "2.0.0"]))
        .activate("account", 1)
        .activate("loan", 3);
    assert_eq!(world.against("account", 2), ["state_not_read"]);
    let world = world.activate("loan", 4);
    assert_eq!(world.against("account", 2), Vec::<String>::new());
    let world = world.activate("account", 2);
    assert_eq!(world.against("loan", 3), ["state_not_read"], "back to a reader that no longer understands");
}

#[test]
fn events_in_the_log_stay_folded() {
    let world = World::default()
        .upload("account", 1, INSTANCE, &account(&["1"], &["1"], "1"))
        .upload("account", 2, INSTANCE, &account(&["2"], &["2"], "1"))
        .upload("account", 3, INSTANCE, &account(&["2"], &["1", "2"], "1"))
        .upload("account", 4, INSTANCE, &account(&["3"], &["3"], "1"));
    assert_eq!(world.against("account", 2), Vec::<String>::new(), "nothing was emitted yet");
    let world = world.activate("account", 1);
    assert_eq!(world.against("account", 2), ["event_not_folded"]);
    assert_eq!(world.against("account", 3), Vec::<String>::new());
    let world = world.activate("account", 3);
    assert_eq!(world.against("account", 1), ["event_not_folded"], "version 2 may be in the log by now");
    assert_eq!(world.against("account", 4), ["event_not_folded", "event_not_folded"], "of both that were active");
}

#[test]
fn another_name_taking_over_a_type_folds_what_was_emitted_before() {
    let world = World::default()
        .upload("account", 1, INSTANCE, &account(&["1"], &["1"], "1"))
        .upload("account", 2, INSTANCE, &with(|m| m.kinds = vec!["Other".into()]))
        .activate("account", 1)
        .activate("account", 2)
        .upload("bank", 3, INSTANCE, &account(&["5"], &["5"], "1"));
    assert_eq!(world.against("bank", 3), ["event_not_folded"]);
}

#[test]
fn projections_and_what_they_fold_stay_together() {
    let world = World::default()
        .upload("account", 1, INSTANCE, &account(&["1"], &["1"], "1"))
        .upload("account", 2, INSTANCE, &account(&["1", "2"], &["1", "2"], "1"))
        .upload("statements", 3, PROJECTION, &statements(&["1"], "statements"))
        .upload("statements", 4, PROJECTION, &statements(&["1", "2"], "statements"))
        .upload("statements", 5, PROJECTION, &statements(&["2"], "statements"))
        .activate("account", 1)
        .activate("statements", 3);
    assert_eq!(world.against("account", 2), ["event_not_folded"]);
    assert_eq!(world.against("statements", 5), ["event_not_folded"], "version 1 is in the log");
    let world = world.activate("statements", 4);
    assert_eq!(world.against("account", 2), Vec::<String>::new());
}

#[test]
fn other_collections_than_those_that_are_written_call_for_a_rebuild() {
    let world = World::default().upload("statements", 1, PROJECTION, &statements(&["1"], "statements"));
    let warnings = |world: &World, manifest: &Manifest| {
        let candidate = Candidate { world: PROJECTION, version: "2.0.0", manifest };
        codes(&upload_warnings("statements", candidate, &world.0))
    };
    let mut raised = statements(&["1"], "statements");
    raised.collections[0].revision = 2;
    assert_eq!(warnings(&world, &raised), Vec::<String>::new(), "nothing is written yet");
    let world = world.activate("statements", 1);
    assert_eq!(warnings(&world, &raised), ["rebuild_needed"]);
    assert_eq!(warnings(&world, &statements(&["1"], "other")), ["rebuild_needed"]);
    assert_eq!(warnings(&world, &statements(&["1", "2"], "statements")), Vec::<String>::new());
}

#[test]
fn an_activation_is_judged_by_revision_fit_and_force() {
    let manifest = account(&["1"], &["1"], "1");
    let world = World::default().upload("account", 1, INSTANCE, &manifest).upload("account", 2, INSTANCE, &manifest);
    let ask = |if_revision, force| Ask { if_revision, force, reason: None };
    let of = |world: &World, name: &str, n: u8, ask: &Ask| judge(name, digest(n), ask, &world.0);
    assert_eq!(of(&world, "bank", 1, &ask(None, true)), Err(Refusal::UnknownHandler));
    assert_eq!(of(&world, "account", 9, &ask(None, true)), Err(Refusal::UnknownDigest));
    assert_eq!(of(&world, "account", 1, &ask(None, false)), Err(Refusal::NotVerified));
    assert_eq!(
        of(&world, "account", 1, &ask(Some(0), true)),
        Ok(Judged::Go { revision: 1, forced: true, previous: None })
    );
    let world = world.activate("account", 1);
    let stale = Err(Refusal::Revision { expected: 0, actual: 1 });
    assert_eq!(of(&world, "account", 2, &ask(Some(0), true)), stale);
    assert_eq!(of(&world, "account", 1, &ask(Some(0), true)), stale);
    assert_eq!(of(&world, "account", 1, &ask(Some(1), false)), Ok(Judged::Already));
    assert_eq!(
        of(&world, "account", 2, &ask(Some(1), true)),
        Ok(Judged::Go { revision: 2, forced: true, previous: Some(digest(1)) })
    );
    let mut green = world;
    green.push("account", record::VERIFIED, serde_json::json!({"digest": digest(2), "green": true}));
    assert_eq!(
        of(&green, "account", 2, &ask(None, false)),
        Ok(Judged::Go { revision: 2, forced: false, previous: Some(digest(1)) })
    );
}
