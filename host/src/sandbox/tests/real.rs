//! The handlers of this repository pass the door and answer.

use super::*;

const HANDLERS: [(&str, World); 5] = [
    ("ontology", World::Ontology),
    ("instance", World::Instance),
    ("projection", World::Projection),
    ("account", World::Instance),
    ("account-projection", World::Projection),
];

fn handlers() -> &'static [Arc<Handler>] {
    static LOADED: OnceLock<Vec<Arc<Handler>>> = OnceLock::new();
    LOADED.get_or_init(load)
}

fn load() -> Vec<Arc<Handler>> {
    let packages: Vec<String> = HANDLERS.iter().map(|(name, _)| format!("--package=carryall-{name}")).collect();
    let folder = build(&packages.iter().map(String::as_str).collect::<Vec<_>>());
    let file = |name: &str| folder.join(format!("carryall_{}.wasm", name.replace('-', "_")));
    HANDLERS.iter().map(|(name, _)| sandbox().load(&std::fs::read(file(name)).unwrap()).unwrap()).collect()
}

#[test]
fn a_handler_says_in_which_versions_it_understands_the_states_it_reads() {
    let understands = |kind, version| handlers()[1].description().understands(kind, version);
    assert!(understands("OntologyClass", "1.0.0") && understands("Database", "1.0.0"));
    assert!(!understands("OntologyClass", "2.0.0"));
    assert!(understands("Account", "7.0.0"), "of those it does not name it says nothing");
}

#[test]
fn every_handler_loads_and_all_can_be_active_together() {
    let handlers = handlers();
    for (handler, (name, world)) in handlers.iter().zip(HANDLERS) {
        assert_eq!((handler.description().name.as_str(), handler.world()), (name, world));
    }
    let named = |handler: &Arc<Handler>| ActiveHandler {
        name: handler.description().name.as_str().into(),
        revision: 1,
        handler: handler.clone(),
    };
    let active = Active::new(handlers.iter().map(named)).unwrap();
    for (kind, name) in [
        ("Database", "ontology"),
        ("OntologyClass", "ontology"),
        ("Instance", "instance"),
        ("InstanceBatch", "instance"),
        ("Account", "account"),
    ] {
        assert_eq!(&*active.command_handler(kind).unwrap().name, name, "{kind}");
    }
}

#[test]
fn a_database_is_created_and_its_class_is_compared() {
    let ontology = &handlers()[0];
    let create = Command {
        target: AggregateRef { kind: "Database", id: "shop" },
        expected_seq: Some(0),
        ..command("CREATE_DATABASE", "{\"name\":\"shop\",\"description\":\"a shop\"}")
    };
    let mut decision = ontology.decision(CONTEXT).unwrap();
    let wanted = decision.needs(&create, None, &[]).unwrap();
    assert!(wanted.is_empty(), "{wanted:?}");
    let Verdict::Accepted(outcome) = decision.decide(None, &create, &[]).unwrap() else { panic!("not accepted") };
    let created = &outcome.events[0];
    assert_eq!(created.name, "DATABASE_CREATED");
    let recorded = RecordedEvent {
        source: create.target,
        schema_version: &created.schema_version,
        ..event(&created.name, created.data.as_str())
    };
    let state = ontology.evolve(None, &[recorded]).unwrap().unwrap();
    let again = ontology.decision(CONTEXT).unwrap().decide(Some(state.as_str()), &create, &[]).unwrap();
    assert!(matches!(again, Verdict::Rejected(_)), "{again:?}");
    let class = r#"{"id":"Product","label":"Product","properties":[{"name":"a","type":"string","label":"A"}]}"#;
    let other = class.replace("\"string\"", "\"integer\"");
    assert_eq!(ontology.compare(class, class).unwrap().level, Level::Identical);
    assert_eq!(ontology.compare(class, &other).unwrap().level, Level::Breaking);
}
