//! Which descriptions are acceptable, for which world.

use super::super::describe::{Draft, DraftContract, Version};
use super::*;

fn contract(name: &str, versions: &[&str]) -> DraftContract {
    let versions = versions.iter().map(ToString::to_string).collect();
    DraftContract { name: name.into(), versions, json_schema: None }
}

fn draft() -> Draft {
    Draft {
        name: "account".into(),
        version: "1.2.3-rc.1".into(),
        kinds: vec!["Account".into()],
        commands: vec![contract("OPEN_ACCOUNT", &["1"])],
        emits: vec![contract("ACCOUNT_OPENED", &["1.0.0", "1.1.0"])],
        folds: vec![contract("ACCOUNT_OPENED", &["1.0.0", "1.1.0"])],
        state: Some(contract("account", &["1.0.0"])),
        reads: vec![contract("Customer", &["1.0.0"])],
        ordering: String::new(),
        collections: Vec::new(),
        labels: vec![("team".into(), "core".into())],
    }
}

fn projection() -> Draft {
    Draft {
        commands: Vec::new(),
        emits: Vec::new(),
        state: None,
        reads: Vec::new(),
        ordering: "aggregate".into(),
        collections: vec![Collection { name: "accounts".into(), revision: 1, mapping: Some("{}".into()) }],
        ..draft()
    }
}

#[test]
fn a_good_description_is_taken() {
    let description = draft().check(World::Instance).unwrap();
    assert_eq!(description.commands[0].versions, [Version { major: 1, minor: 0, patch: 0 }]);
    assert_eq!(projection().check(World::Projection).unwrap().ordering, Ordering::Aggregate);
    let partition = Draft { ordering: "partition".into(), ..projection() };
    assert_eq!(partition.check(World::Projection).unwrap().ordering, Ordering::Partition);
}

#[test]
fn versions_parse_strictly() {
    for good in ["1", "0.1.0", "10.20.30"] {
        assert!(Version::parse(good).is_some(), "{good}");
    }
    for bad in ["", "1.0", "01.0.0", "1.0.0.0", "v1", "1.0.x", "-1", "+1", "99999999999", "1..0"] {
        assert!(Version::parse(bad).is_none(), "{bad}");
    }
}

#[test]
fn bad_descriptions_are_refused_by_field() {
    type Change = fn(&mut Draft);
    let cases: [(&str, Change); 21] = [
        ("name", |draft| draft.name = "Account".into()),
        ("name", |draft| draft.name = String::new()),
        ("version", |draft| draft.version = "1.0".into()),
        ("version", |draft| draft.version = "1.0.0-".into()),
        ("kinds", |draft| draft.kinds.clear()),
        ("kinds", |draft| draft.kinds = vec!["account".into()]),
        ("kinds", |draft| draft.kinds = vec!["Handler".into()]),
        ("kinds", |draft| draft.kinds = vec!["Operations".into()]),
        ("kinds", |draft| draft.kinds = vec!["Account".into(), "Account".into()]),
        ("kinds", |draft| draft.kinds = (0..33).map(|index| format!("Kind{index}")).collect()),
        ("commands", |draft| draft.commands.clear()),
        ("commands", |draft| draft.commands = vec![contract("open", &["1"])]),
        ("commands", |draft| draft.commands = vec![contract("OPEN", &[])]),
        ("commands", |draft| draft.commands = vec![contract("OPEN", &["one"])]),
        ("commands", |draft| draft.commands[0].json_schema = Some("{".into())),
        ("emits", |draft| draft.emits = vec![contract("COMMAND_FAILED", &["1"])]),
        ("emits", |draft| draft.emits = vec![contract("A", &["1", "1.0.0"])]),
        ("folds", |draft| draft.folds = vec![contract("A", &["1"]), contract("A", &["2"])]),
        ("reads", |draft| draft.reads = vec![contract("customer", &["1"])]),
        ("ordering", |draft| draft.ordering = "partition".into()),
        ("labels", |draft| draft.labels = vec![(String::new(), String::new())]),
    ];
    for (index, (wanted, change)) in cases.into_iter().enumerate() {
        let mut draft = draft();
        change(&mut draft);
        match draft.check(World::Instance) {
            Err(Error::Contract { field, .. }) => assert_eq!(field, wanted, "case {index}"),
            other => panic!("case {index} ({wanted}): {other:?}"),
        }
    }
}

#[test]
fn a_description_must_fit_its_world() {
    for (world, wanted) in [(World::Projection, "ordering"), (World::Upcaster, "commands")] {
        match draft().check(world) {
            Err(Error::Contract { field, .. }) => assert_eq!(field, wanted),
            other => panic!("{other:?}"),
        }
    }
    let two = Collection { name: "Accounts".into(), revision: 1, mapping: None };
    let draft = Draft { collections: vec![two], ..projection() };
    assert!(matches!(draft.check(World::Projection), Err(Error::Contract { field, .. }) if field == "collections"));
}
