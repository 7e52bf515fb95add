//! Reads the event log from the disk by its published format alone, and audits it: the chain of digests, dense
//! positions and sequences, unique ids, derived ids, one outcome for each command. An error is a broken invariant.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// One stored event.
#[derive(Debug, Clone)]
pub struct Event {
    pub partition: u64,
    pub position: u64,
    /// The line as it is stored.
    pub line: String,
    pub envelope: Value,
}

impl Event {
    pub fn id(&self) -> &str {
        self.envelope["event_id"].as_str().unwrap_or_default()
    }

    pub fn is_command(&self) -> bool {
        self.envelope["metadata"]["kind"] == "command"
    }

    /// Of a domain event, the command it is an outcome of.
    pub fn command_id(&self) -> &str {
        self.envelope["metadata"]["command_id"].as_str().unwrap_or_default()
    }

    pub fn event_type(&self) -> &str {
        self.envelope["event_type"].as_str().unwrap_or_default()
    }

    pub fn aggregate(&self) -> (String, String) {
        let text = |name: &str| self.envelope[name].as_str().unwrap_or_default().to_owned();
        (text("aggregate_type"), text("aggregate_id"))
    }

    pub fn sequence(&self) -> u64 {
        self.envelope["sequence_number"].as_u64().unwrap_or_default()
    }
}

/// A whole log that passed the audit.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// In partition and position order.
    pub events: Vec<Event>,
    pub segments: u64,
}

impl Log {
    /// Reads and audits the log under a store's folder.
    pub fn read(store: &Path) -> anyhow::Result<Log> {
        let mut log = Log::default();
        let mut partitions = children(&store.join("events"))?;
        partitions.sort();
        for folder in partitions {
            let number: u64 = name(&folder)?.parse().context("a partition's folder is a number")?;
            log.read_partition(number, &folder)?;
        }
        log.audit()?;
        Ok(log)
    }

    fn read_partition(&mut self, partition: u64, folder: &Path) -> anyhow::Result<()> {
        let mut files = Vec::new();
        for group in children(folder)? {
            files.extend(children(&group)?);
        }
        files.sort();
        let mut chain = Chain { digest: "0".repeat(64), position: 0 };
        for (number, file) in files.iter().enumerate() {
            let wanted = format!("{:012}/{number:016}.ndjson", number / 10_000);
            ensure!(file.ends_with(&wanted), "a hole or a stranger: {} is not {wanted}", file.display());
            self.read_segment(partition, number as u64, file, &mut chain)
                .with_context(|| format!("segment {}", file.display()))?;
            self.segments += 1;
        }
        Ok(())
    }

    fn read_segment(&mut self, partition: u64, number: u64, file: &Path, chain: &mut Chain) -> anyhow::Result<()> {
        let text = fs::read_to_string(file)?;
        ensure!(text.ends_with('\n'), "does not end with a line feed");
        let lines: Vec<&str> = text.lines().collect();
        ensure!(lines.len() >= 3, "has no event");
        let header: Value = serde_json::from_str(lines[0]).context("header")?;
        let footer: Value = serde_json::from_str(lines[lines.len() - 1]).context("footer")?;
        ensure!(header["partition"] == partition && header["segment"] == number, "the header names another place");
        ensure!(header["prev_digest"] == chain.digest, "the chain is broken");
        ensure!(header["first_position"] == chain.position, "a hole in the positions");
        let events = &lines[1..lines.len() - 1];
        ensure!(header["count"] == events.len(), "count is not the number of events");
        let body = &text.as_bytes()[..text.len() - lines[lines.len() - 1].len() - 1];
        let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(footer["digest"] == digest, "the digest is not that of the bytes");
        let offsets = footer["offsets"].as_array().context("offsets")?;
        ensure!(offsets.len() == events.len(), "as many offsets as events");
        let mut offset = lines[0].len() + 1;
        for (line, wanted) in events.iter().zip(offsets) {
            ensure!(*wanted == offset, "an offset points elsewhere");
            offset += line.len() + 1;
            let envelope = serde_json::from_str(line).context("an event is no JSON")?;
            self.events.push(Event { partition, position: chain.position, line: (*line).to_owned(), envelope });
            chain.position += 1;
        }
        chain.digest = digest;
        Ok(())
    }

    fn audit(&self) -> anyhow::Result<()> {
        let mut ids = HashSet::new();
        let mut heads: HashMap<(String, String), u64> = HashMap::new();
        let mut outcomes: HashMap<&str, usize> = HashMap::new();
        for event in &self.events {
            let what = || format!("position {}: {}", event.position, event.line);
            ensure!(ids.insert(event.id()), "an id twice, {}", what());
            let head = heads.entry(event.aggregate()).or_default();
            ensure!(event.sequence() == *head + 1, "sequence after {head}, {}", what());
            *head += 1;
            if event.is_command() {
                ensure!(event.event_type().ends_with("_REQUESTED"), "a command's type, {}", what());
                ensure!(event.envelope["data"]["command_id"] == event.id(), "a command's id, {}", what());
            } else {
                let command = event.command_id();
                let index = outcomes.entry(command).or_default();
                let derived = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("carryall:{command}:{index}").as_bytes());
                ensure!(event.id() == derived.to_string(), "the id of a domain event, {}", what());
                *index += 1;
            }
            fields_in_order(&event.line).with_context(what)?;
        }
        Ok(())
    }

    /// The command with this id.
    pub fn command(&self, id: &str) -> Option<&Event> {
        self.events.iter().find(|event| event.is_command() && event.id() == id)
    }

    /// The outcome of a command.
    pub fn outcome(&self, id: &str) -> Vec<&Event> {
        self.events.iter().filter(|event| !event.is_command() && event.command_id() == id).collect()
    }

    /// Commands that no domain event answers.
    pub fn undecided(&self) -> Vec<&Event> {
        let decided: HashSet<&str> =
            self.events.iter().filter(|event| !event.is_command()).map(Event::command_id).collect();
        self.events.iter().filter(|event| event.is_command() && !decided.contains(event.id())).collect()
    }
}

struct Chain {
    digest: String,
    position: u64,
}

/// The envelope's fields come in the order of the contract; whatever else is kept comes after.
fn fields_in_order(line: &str) -> anyhow::Result<()> {
    let fields = [
        "event_id",
        "event_type",
        "aggregate_type",
        "aggregate_id",
        "occurred_at",
        "actor",
        "data",
        "metadata",
        "schema_version",
        "sequence_number",
    ];
    // A key at the top level is found from the left: values of the fields before `data` hold no quoted names, and those
    // after it are looked for from the right.
    let at = |field: &str| match field {
        "metadata" | "schema_version" | "sequence_number" => line.rfind(&format!("\"{field}\":")),
        _ => line.find(&format!("\"{field}\":")),
    };
    let mut last = 0;
    for field in fields {
        let Some(found) = at(field) else { bail!("an envelope without {field}") };
        ensure!(found >= last, "{field} is out of order");
        last = found;
    }
    Ok(())
}

fn children(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn name(path: &Path) -> anyhow::Result<&str> {
    path.file_name().and_then(|name| name.to_str()).context("a name that is no text")
}
