//! The runbook's validation checklist, taken from the document itself: each command of its fenced blocks is run against
//! a host on the real servers, so that the document cannot rot.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use carryall_tests::{ADMIN_TOKEN, Bucket, Kafka, Postgres, Server, binary};

/// The sections that an operator looks for.
const SECTIONS: [&str; 7] =
    ["Overview", "Prerequisites", "Configuration", "Start order", "Validation checklist", "Semantics", "Maintenance"];
const TROUBLES: [&str; 8] = [
    "Many 409",
    "Stuck in `processing`",
    "PostgreSQL is away",
    "Duplicates",
    "A parked aggregate",
    "A full disk",
    "A lost database",
    "A restored bucket",
];

fn runbook() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbook.md")).unwrap()
}

/// The text of a section, from its heading to the next one of the same level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let begin = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no section {heading:?}"));
    let rest = &text[begin + heading.len() + 2..];
    let level = format!("\n{} ", heading.split(' ').next().unwrap());
    rest.find(&level).map_or(rest, |end| &rest[..end])
}

/// The fenced blocks of a text that a shell runs.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap()).collect()
}

#[test]
fn the_runbook_has_what_an_operator_looks_for() {
    let text = runbook();
    for name in SECTIONS {
        assert!(section(&text, &format!("## {name}")).len() > 200, "{name} says too little");
    }
    for name in TROUBLES {
        assert!(section(&text, &format!("### {name}")).len() > 100, "{name} says too little");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_validation_checklist_works() {
    let (bucket, postgres, kafka) = (Bucket::new(), Postgres::create().await, Kafka::create());
    let options = bucket.options().with("POSTGRES_URL", &postgres.url());
    let options = kafka.environment().into_iter().fold(options, |options, (name, value)| options.with(name, value));
    let mut server = Server::start(options.clone()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = format!("{}:{}", binary().unwrap().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let text = runbook();
    let blocks = blocks(section(&text, "## Validation checklist"));
    assert!(blocks.len() >= 8, "the checklist has become short: {blocks:?}");
    for block in blocks {
        let mut shell = Command::new("sh");
        shell.args(["-euc", block]).current_dir(folder.path()).env_clear().env("PATH", &path);
        shell.envs(options.environment.iter().map(|(name, value)| (name, value)));
        shell.env("CARRYALL_URL", format!("http://{}", server.address())).env("CARRYALL_ADMIN_TOKEN", ADMIN_TOKEN);
        let ended = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
        let said = [ended.stdout, ended.stderr].concat();
        assert!(ended.status.success(), "{block}\n\n{}\n{}", String::from_utf8_lossy(&said), server.host_log());
    }
    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    bucket.remove().await.unwrap();
}
