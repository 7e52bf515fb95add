//! The layer table of the host (`docs/architecture.md`), and where each vendor crate may be named.

use std::collections::BTreeSet;
use std::path::Path;

use super::{is_test, none, rust_files};

/// What each module of the host may name, besides itself. Within a layer, modules never name each other.
const LAYERS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("error", &[]),
    ("metrics", &[]),
    ("failpoint", &[]),
    ("bundled", &[]),
    ("codec", BASE),
    ("port", BASE),
    ("event_store", BELOW_STORES),
    ("sandbox", BELOW_STORES),
    ("state", BELOW_STATE),
    ("command", BELOW_SERVICES),
    ("worker", BELOW_SERVICES),
    ("projection", BELOW_SERVICES),
    ("relay", BELOW_SERVICES),
    ("deploy", BELOW_SERVICES),
    ("replay", BELOW_SERVICES),
    ("query", BELOW_SERVICES),
    ("api", &["command", "query", "deploy", "replay", "state", "port", "codec", "domain", "error", "metrics"]),
    ("adapter", &["port", "codec", "domain", "error", "metrics", "failpoint"]),
    ("config", &["domain", "failpoint"]),
    ("telemetry", &["config"]),
    (
        "app",
        &[
            "adapter",
            "api",
            "bundled",
            "codec",
            "command",
            "config",
            "deploy",
            "domain",
            "error",
            "event_store",
            "failpoint",
            "metrics",
            "port",
            "projection",
            "query",
            "relay",
            "replay",
            "sandbox",
            "state",
            "telemetry",
            "worker",
        ],
    ),
    ("cli", &["app", "config", "domain", "error", "event_store", "metrics", "replay", "sandbox", "telemetry"]),
];

const BASE: &[&str] = &["domain", "error", "failpoint"];
const BELOW_STORES: &[&str] = &["port", "codec", "domain", "error", "metrics", "failpoint"];
const BELOW_STATE: &[&str] = &["event_store", "sandbox", "port", "codec", "domain", "error", "metrics", "failpoint"];
const BELOW_SERVICES: &[&str] =
    &["state", "event_store", "sandbox", "port", "codec", "domain", "error", "metrics", "failpoint"];

/// Crates that are named in these modules of the host only; an adapter by its folder.
const VENDORS: &[(&str, &[&str])] = &[
    ("wasmtime", &["sandbox"]),
    ("wasmtime_wasi", &["sandbox"]),
    ("carryall_code_cache", &["sandbox"]),
    ("sqlx", &["adapter/postgres", "adapter/sqlite"]),
    ("rdkafka", &["adapter"]),
    ("aws_config", &["adapter"]),
    ("aws_sdk_s3", &["adapter"]),
    ("axum", &["api"]),
    ("tower", &["api"]),
    ("utoipa", &["api"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("tikv_jemallocator", &["main", "simulation"]),
    ("prometheus", &["metrics"]),
    ("toml", &["config"]),
    ("tracing_subscriber", &["telemetry"]),
    ("hyper", &["api", "cli"]),
    ("hyper_util", &["api", "cli"]),
    ("http_body_util", &["api", "cli"]),
    ("crc32c", &["codec"]),
    ("ryu_js", &["codec"]),
    ("sha2", &["domain", "codec", "sandbox"]),
    ("time", &["domain"]),
    ("tempfile", &["adapter", "cli"]),
    ("rustix", &["adapter", "failpoint", "cli"]),
];

/// The module of the host a file belongs to.
fn module(path: &Path) -> Option<String> {
    let inner = path.strip_prefix("host/src").ok()?;
    let first = inner.components().next()?.as_os_str().to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

/// Text of a line without its comment. A `//` within a text cuts off too much: at most it hides an import.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// The names after `crate::`, those of a `use crate::{a::…, b}` included.
fn named_modules(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(code).collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.extend([identifier(rest)]),
        }
    }
    names
}

/// First names of the entries of a group, whose opening brace is gone.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut entry) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(identifier(std::mem::take(&mut entry).trim())),
            _ if depth == 0 => entry.push(c),
            _ => {}
        }
    }
    heads.push(identifier(entry.trim()));
    heads.retain(|head| !head.is_empty());
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn imports_go_downwards_only() {
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        let Some(module) = module(&path) else { continue };
        if matches!(module.as_str(), "lib" | "main" | "simulation") || is_test(&path) {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            found.push(format!("{}: the module {module} is not in the layer table", path.display()));
            continue;
        };
        for name in named_modules(&text) {
            let is_module = LAYERS.iter().any(|(module, _)| *module == name);
            if is_module && name != module && !allowed.contains(&name.as_str()) {
                found.push(format!("{}: {module} must not name {name}", path.display()));
            }
        }
    }
    none("against the layer table", &found);
}

#[test]
fn each_vendor_crate_is_named_in_one_place() {
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        let Some(module) = module(&path) else { continue };
        if is_test(&path) {
            continue;
        }
        for (vendor, places) in VENDORS {
            let named = text.lines().map(code).any(|line| names_crate(line, vendor));
            let at_home = |place: &&str| module == **place || path.starts_with(format!("host/src/{place}"));
            if named && !places.iter().any(at_home) {
                found.push(format!("{}: {vendor} belongs to {}", path.display(), places.join(", ")));
            }
        }
    }
    none("vendor crates out of their place", &found);
}

/// What the simulation runs: where the order of ready branches is drawn, a seed does not repeat.
const SIMULATED: &[&str] =
    &["command", "deploy", "event_store", "port", "projection", "query", "relay", "state", "worker"];

#[test]
fn every_select_that_is_simulated_says_which_branch_goes_first() {
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        if is_test(&path) || !module(&path).is_some_and(|module| SIMULATED.contains(&module.as_str())) {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (number, pair) in lines.windows(2).enumerate() {
            if pair[0].contains("select! {") && pair[1].trim() != "biased;" {
                found.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    none("without `biased;`", &found);
}

/// Whether a line holds the path `vendor::`, begun by it.
fn names_crate(line: &str, vendor: &str) -> bool {
    let path = format!("{vendor}::");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn the_checks_see_what_they_look_for() {
    let text =
        "use crate::{api::x, codec::{self, y}, port};\nlet a = crate::state::b(); // crate::cli::c\nmycrate::app::d();";
    let names: Vec<String> = named_modules(text).into_iter().collect();
    assert_eq!(names, ["api", "codec", "port", "state"]);
    assert!(names_crate("use sqlx::Row;", "sqlx") && names_crate("let x = sqlx::query(a);", "sqlx"));
    assert!(!names_crate("use crate::time::x; my_sqlx::y()", "sqlx") && !names_crate("std::time::Instant", "time"));
}
