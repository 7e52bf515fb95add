//! `carryall handlers`: the path of a component from source to a running host.

mod new;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::http::{Client, escape};
use super::output::{Output, cell, table};
use super::remote::Remote;
use super::{Done, Failure, alone};
use crate::sandbox::{Contract, Handler, Options, Sandbox};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Action {
    /// Write a new handler crate from the SDK's template.
    New(new::New),
    /// Compile a handler crate to a component.
    Build {
        /// Folder of the crate.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Run a handler crate's tests, compile it, and load the component as a host would.
    Test {
        /// Folder of the crate.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// What a component says of itself, or why a host would refuse it.
    Inspect { component: PathBuf },
    /// Store a component on a host. Changes nothing that runs, unless --activate is given.
    Upload {
        component: PathBuf,
        /// Activate it at once.
        #[arg(long)]
        activate: bool,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make an uploaded version the one that runs.
    Activate {
        name: String,
        digest: String,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        remote: Remote,
    },
    /// Go back to the version that ran before.
    Rollback {
        name: String,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        remote: Remote,
    },
    /// Have all that a projection writes written anew, while readers see what is there.
    Rebuild {
        name: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Handlers of a host; with a name, its versions and history.
    List {
        name: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
}

/// How an activation is meant.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct How {
    /// Only if the handler is still at this revision.
    #[arg(long)]
    if_revision: Option<u64>,
    /// Even without a green verification; the history will say so.
    #[arg(long)]
    force: bool,
    /// Why; it is recorded.
    #[arg(long)]
    reason: Option<String>,
}

impl How {
    pub(in crate::cli) fn forced(reason: &str) -> How {
        How { if_revision: None, force: true, reason: Some(reason.to_owned()) }
    }

    fn body(&self) -> Value {
        let mut body = json!({});
        if let Some(revision) = self.if_revision {
            body["if_revision"] = revision.into();
        }
        if self.force {
            body["force"] = true.into();
        }
        if let Some(reason) = &self.reason {
            body["reason"] = reason.as_str().into();
        }
        body
    }
}

pub(in crate::cli) fn run(action: Action, output: &mut Output) -> Result<Done, Failure> {
    match action {
        Action::New(new) => return new::run(&new, output),
        Action::Build { folder } => {
            let built = compile(&folder)?;
            let digest = crate::domain::Digest::of(&read(&built)?);
            let value = json!({"component": built, "digest": digest});
            output.result(&value, |_| format!("{}\n{digest}", built.display()))?;
        }
        Action::Test { folder } => {
            cargo(&folder, &["test"])?;
            let built = compile(&folder)?;
            let handler = load(&read(&built)?)?;
            output.result(&describe(&handler), describe_text)?;
        }
        Action::Inspect { component } => {
            output.result(&describe(load(&read(&component)?)?.as_ref()), describe_text)?;
        }
        Action::Upload { component, activate, how, remote } => {
            let bytes = read(&component)?;
            let client = remote.client()?;
            alone(async {
                let mut answer = upload(&client, bytes).await?;
                if activate {
                    answer = self::activate(&client, &answer, &how).await?;
                }
                output.result(&answer, deployed_text)?;
                Ok(Done::Well)
            })?;
        }
        Action::Activate { name, digest, how, remote } => {
            let client = remote.client()?;
            alone(async {
                let uploaded = json!({"name": name, "digest": digest});
                output.result(&self::activate(&client, &uploaded, &how).await?, deployed_text)?;
                Ok(Done::Well)
            })?;
        }
        Action::Rollback { name, how, remote } => {
            let client = remote.client()?;
            alone(async {
                let path = format!("/admin/v1/handlers/{}/rollback", escape(&name));
                output.result(&client.post(&path, &how.body()).await?, deployed_text)?;
                Ok(Done::Well)
            })?;
        }
        Action::Rebuild { name, reason, remote } => {
            let client = remote.client()?;
            alone(async {
                let path = format!("/admin/v1/handlers/{}/rebuild", escape(&name));
                output.result(&client.post(&path, &json!({"reason": reason})).await?, deployed_text)?;
                Ok(Done::Well)
            })?;
        }
        Action::List { name, remote } => {
            let client = remote.client()?;
            alone(async {
                match name {
                    None => output.result(&client.get("/admin/v1/handlers").await?, list_text)?,
                    Some(name) => {
                        let answer = client.get(&format!("/admin/v1/handlers/{}", escape(&name))).await?;
                        output.result(&answer, |answer| format!("{answer:#}"))?;
                    }
                }
                Ok(Done::Well)
            })?;
        }
    }
    Ok(Done::Well)
}

/// Stores a component; gives the host's answer (name, version, digest, state, findings).
pub(in crate::cli) async fn upload(client: &Client, component: Vec<u8>) -> Result<Value, Failure> {
    let headers = [("content-type", "application/wasm")];
    let answer = client.send(Method::POST, "/admin/v1/handlers", &headers, Bytes::from(component)).await?;
    if answer.status == 422 {
        let refusal = answer.json()?;
        if let Some(findings) = refusal["findings"].as_array() {
            let listed: Vec<String> = findings.iter().map(|finding| format!("\n  {}", finding_text(finding))).collect();
            return Err(Failure::Failed(anyhow::anyhow!("{}{}", answer.problem(), listed.concat())));
        }
    }
    answer.success()
}

/// Activates what an upload answered.
pub(in crate::cli) async fn activate(client: &Client, uploaded: &Value, how: &How) -> Result<Value, Failure> {
    let (Some(name), Some(digest)) = (uploaded["name"].as_str(), uploaded["digest"].as_str()) else {
        return Err(Failure::Failed(anyhow::anyhow!("the host's answer names no handler: {uploaded}")));
    };
    let path = format!("/admin/v1/handlers/{}/versions/{}/activate", escape(name), escape(digest));
    client.post(&path, &how.body()).await
}

/// Compiles the crate in a folder; gives the component's path.
pub(in crate::cli) fn compile(folder: &Path) -> Result<PathBuf, Failure> {
    let arguments = ["build", "--release", "--target", "wasm32-wasip2", "--message-format=json-render-diagnostics"];
    let output = Command::new("cargo")
        .args(arguments)
        .current_dir(folder)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started; handlers in Rust are compiled with it")?;
    if !output.status.success() {
        return Err(Failure::Failed(anyhow::anyhow!(
            "{} does not compile to a component. If the target is missing: rustup target add wasm32-wasip2",
            folder.display()
        )));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut components: Vec<PathBuf> = messages.lines().filter_map(artefact).flatten().collect();
    match (components.pop(), components.is_empty()) {
        (Some(component), true) => Ok(component),
        (None, _) => Err(Failure::Failed(anyhow::anyhow!(
            "{} makes no component: its Cargo.toml needs [lib] crate-type = [\"cdylib\"]",
            folder.display()
        ))),
        (Some(_), false) => Err(Failure::Failed(anyhow::anyhow!(
            "{} makes several components: name the folder of one crate",
            folder.display()
        ))),
    }
}

/// The `.wasm` files of one of cargo's messages.
fn artefact(line: &str) -> Option<Vec<PathBuf>> {
    let message: Value = serde_json::from_str(line).ok()?;
    let files = message["filenames"].as_array()?;
    Some(files.iter().filter_map(Value::as_str).filter(|file| file.ends_with(".wasm")).map(PathBuf::from).collect())
}

fn cargo(folder: &Path, arguments: &[&str]) -> Result<(), Failure> {
    // The result of this program is what stdout is for; what cargo and the tests say goes to stderr.
    let status = Command::new("cargo")
        .args(arguments)
        .current_dir(folder)
        .stdout(std::io::stderr())
        .status()
        .context("cargo cannot be started; handlers in Rust are compiled with it")?;
    if !status.success() {
        return Err(Failure::Failed(anyhow::anyhow!("cargo {} failed in {}", arguments.join(" "), folder.display())));
    }
    Ok(())
}

fn read(component: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(component).with_context(|| format!("read {}", component.display()))?;
    if !bytes.starts_with(b"\0asm") {
        bail!("{} is no WebAssembly file", component.display());
    }
    Ok(bytes)
}

fn load(component: &[u8]) -> anyhow::Result<std::sync::Arc<Handler>> {
    let sandbox = Sandbox::new(Options::default()).context("start the sandbox")?;
    sandbox.load(component).context("a host would refuse this component")
}

fn describe(handler: &Handler) -> Value {
    let described = handler.description();
    let contracts = |list: &[Contract]| -> Vec<Value> {
        list.iter()
            .map(|contract| {
                let versions: Vec<String> = contract.versions.iter().map(ToString::to_string).collect();
                json!({"name": contract.name, "versions": versions})
            })
            .collect()
    };
    let collections: Vec<&str> = described.collections.iter().map(|collection| collection.name.as_str()).collect();
    json!({
        "name": described.name,
        "version": described.version,
        "world": handler.world().as_str(),
        "digest": handler.digest(),
        "kinds": described.kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(),
        "commands": contracts(&described.commands),
        "emits": contracts(&described.emits),
        "folds": contracts(&described.folds),
        "state": contracts(described.state.as_slice()),
        "reads": contracts(&described.reads),
        "collections": collections,
    })
}

fn describe_text(value: &Value) -> String {
    let mut text = format!("{} {} ({})", cell(&value["name"]), cell(&value["version"]), cell(&value["world"]));
    text.push_str(&format!("\n{}", cell(&value["digest"])));
    for field in ["kinds", "commands", "emits", "folds", "state", "reads", "collections"] {
        let names: Vec<String> = value[field]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| match item.get("versions").and_then(Value::as_array) {
                Some(versions) => {
                    format!("{} {}", cell(&item["name"]), versions.iter().map(cell).collect::<Vec<_>>().join("|"))
                }
                None => cell(item),
            })
            .collect();
        if !names.is_empty() {
            text.push_str(&format!("\n  {field:<12}{}", names.join(", ")));
        }
    }
    text
}

fn finding_text(finding: &Value) -> String {
    finding.as_str().map_or_else(|| finding.to_string(), str::to_owned)
}

fn deployed_text(value: &Value) -> String {
    let mut parts = Vec::new();
    for field in ["name", "version", "state", "revision", "digest", "active", "build"] {
        if !value[field].is_null() {
            parts.push(format!("{field} {}", cell(&value[field])));
        }
    }
    for finding in value["findings"].as_array().into_iter().flatten() {
        parts.push(format!("\n  {}", finding_text(finding)));
    }
    parts.join("  ")
}

fn list_text(value: &Value) -> String {
    let rows: Vec<Vec<String>> = value["handlers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|handler| {
            let versions = handler["versions"].as_array().map_or(0, Vec::len);
            let active = match &handler["active"] {
                Value::Object(active) => active.get("digest").map_or_else(|| "-".into(), cell),
                other => cell(other),
            };
            vec![cell(&handler["name"]), cell(&handler["revision"]), versions.to_string(), active]
        })
        .collect();
    table(&["HANDLER", "REVISION", "VERSIONS", "ACTIVE"], &rows)
}
