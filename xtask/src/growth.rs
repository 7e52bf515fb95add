//! `cargo xtask growth`: runs the growth workload of the release binary, keeps its figures as JSON under `docs/`, and
//! draws them. `cargo xtask plots` only draws what was kept. The drawing is a function of the figures alone.

mod plot;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::steps::{Workspace, say};
use plot::{Panel, Scale, Series};

const FIGURES: &str = "docs/benchmarks/growth.json";
const PLOT: &str = "docs/benchmarks/growth.svg";
/// Clients of the measured slices.
const CLIENTS: &str = "128";

/// Builds, measures with the arguments given to the workload (`--events 1000,100000`), and draws.
pub fn run(workspace: &Workspace, rest: &[&str]) -> anyhow::Result<()> {
    crate::build(workspace)?;
    let mut arguments = vec!["bench", "--workload", "growth", "--json", "--concurrency", CLIENTS, "--folder"];
    let folder = workspace.target.to_str().context("the path of the target folder is no text")?;
    arguments.push(folder);
    arguments.extend(rest);
    let output = std::process::Command::new(workspace.release_binary())
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("start the release binary")?;
    if !output.status.success() {
        bail!("the workload ended with {}", output.status);
    }
    let figures = file(workspace, FIGURES);
    if let Some(folder) = figures.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&figures, &output.stdout).with_context(|| format!("write {}", figures.display()))?;
    say(&format!("wrote {}", figures.display()));
    draw(workspace)
}

/// Draws the figures that were kept.
pub fn draw(workspace: &Workspace) -> anyhow::Result<()> {
    let figures = file(workspace, FIGURES);
    let text = std::fs::read_to_string(&figures).with_context(|| format!("read {}", figures.display()))?;
    let svg = picture(&serde_json::from_str(&text).context("the figures are no JSON")?)?;
    let plot = file(workspace, PLOT);
    std::fs::write(&plot, svg).with_context(|| format!("write {}", plot.display()))?;
    say(&format!("drew {}", plot.display()));
    Ok(())
}

fn file(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.root.join(name)
}

/// The four panels of a growth report.
fn picture(figures: &Value) -> anyhow::Result<String> {
    let points = figures["points"].as_array().context("the figures have no points")?;
    let series = |name: &'static str, field: &str, unit: f64| Series {
        name,
        points: points
            .iter()
            .filter_map(|point| Some((point["events"].as_f64()?, point[field].as_f64()? / unit)))
            .collect(),
    };
    const MIB: f64 = 1_048_576.0;
    Ok(plot::svg(&[
        Panel {
            title: "CPU seconds of the host for 10,000 commands",
            scale: Scale::Linear,
            series: vec![series("host", "host_cpu_seconds_per_10k", 1.0)],
        },
        Panel {
            title: "start to ready, ms",
            scale: Scale::Linear,
            series: vec![series("compiled code cached", "ready_ms", 1.0)],
        },
        Panel {
            title: "memory, MiB",
            scale: Scale::Linear,
            series: vec![
                series("peak under load", "host_peak_bytes", MIB),
                series("at rest after a start", "idle_resident_bytes", MIB),
            ],
        },
        Panel {
            title: "stored, MiB",
            scale: Scale::Logarithmic,
            series: vec![series("log", "log_bytes", MIB), series("database", "database_bytes", MIB)],
        },
    ]))
}
