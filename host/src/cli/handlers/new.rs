//! `carryall handlers new`: writes the SDK's template as a crate of its own.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::output::Output;
use crate::cli::{Done, Failure};
use crate::domain::AggregateType;

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Name of the handler: lower-case letters, digits and hyphens.
    name: String,
    /// Aggregate type it decides for; without it, made of the name.
    #[arg(long)]
    kind: Option<String>,
    /// Folder to write; without it, the name.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Folder of the carryall-sdk crate; without it, that of the checkout this program or the current folder is in.
    #[arg(long)]
    sdk: Option<PathBuf>,
}

/// Path within the crate, and text. `{{name}}`, `{{kind}}` and `{{sdk}}` are replaced.
const TEMPLATE: [(&str, &str); 3] = [
    ("Cargo.toml", include_str!("../../../../sdk/template/Cargo.toml")),
    ("src/lib.rs", include_str!("../../../../sdk/template/src/lib.rs")),
    ("src/tests.rs", include_str!("../../../../sdk/template/src/tests.rs")),
];

pub(super) fn run(new: &New, output: &mut Output) -> Result<Done, Failure> {
    if !is_name(&new.name) {
        return Err(Failure::Usage(format!(
            "{:?} is no name for a handler: a lower-case letter, then at most 62 lower-case letters, digits or hyphens",
            new.name
        )));
    }
    let kind = new.kind.clone().unwrap_or_else(|| camel_case(&new.name));
    AggregateType::parse(&kind).map_err(|error| Failure::Usage(error.to_string()))?;
    let folder = new.folder.clone().unwrap_or_else(|| PathBuf::from(&new.name));
    if folder.exists() {
        return Err(Failure::Usage(format!("{} exists already", folder.display())));
    }
    let sdk = match &new.sdk {
        Some(sdk) => sdk.clone(),
        None => find_sdk().ok_or_else(|| {
            Failure::Usage("the carryall-sdk crate is not found from here: name its folder with --sdk".into())
        })?,
    };
    let sdk = std::path::absolute(&sdk).with_context(|| format!("find {}", sdk.display()))?;
    let dependency = format!("{{ path = {} }}", toml_text(&sdk)?);
    for (path, text) in TEMPLATE {
        let text = text.replace("{{name}}", &new.name).replace("{{kind}}", &kind).replace("{{sdk}}", &dependency);
        let path = folder.join(path);
        let parent = path.parent().context("a file of the template lies in a folder")?;
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let value = json!({"folder": folder, "name": new.name, "kind": kind});
    output.result(&value, |_| {
        let folder = folder.display();
        format!(
            "{folder} holds the handler {} for aggregates of type {kind}. Next:\n  carryall handlers test {folder}\n  \
             carryall dev {folder}",
            new.name
        )
    })?;
    Ok(Done::Well)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && name.len() <= 63
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// `bank-account` → `BankAccount`.
fn camel_case(name: &str) -> String {
    let capital = |part: &str| {
        let mut chars = part.chars();
        chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect::<String>()
    };
    name.split('-').map(capital).collect()
}

/// The checkout's `sdk` folder, above the current folder or above this program (`target/release/carryall`).
fn find_sdk() -> Option<PathBuf> {
    let program = std::env::current_exe().ok();
    let here = std::env::current_dir().ok();
    let starts = [here.as_deref(), program.as_deref()];
    starts.into_iter().flatten().flat_map(Path::ancestors).map(|folder| folder.join("sdk")).find(|sdk| is_sdk(sdk))
}

fn is_sdk(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| text.contains("name = \"carryall-sdk\""))
}

/// A path as a TOML string.
fn toml_text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| format!("{} is no UTF-8 text", path.display()))?;
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}
