//! `carryall bench`: what this machine reaches, measured as a client sees it. Every command is followed to COMPLETED
//! and its projection; every acknowledgement is durable; the floors of the disk and of the remote parts that the
//! environment names are measured in the same run.
//!
//! The generator shares the machine with the host, so it is one thread with hand-built requests; its own CPU time is
//! reported beside the host's.

mod floor;
mod growth;
mod host;
mod orders;
mod place;
mod report;
mod wire;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::output::Output;
use super::overrides::Overrides;
use super::{Done, Failure};
use crate::app::{self, Floors};
use host::Host;
use orders::{Orders, Size};

/// Which work is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Workload {
    /// Orders are created, then each updated several times with its expected sequence.
    Orders,
    /// The same on a store that grows to each of `--events`: cost of a command, start, memory and size.
    Growth,
}

#[derive(Debug, Args)]
pub(super) struct Bench {
    #[arg(long, value_enum, default_value = "orders")]
    workload: Workload,
    /// Virtual clients, each with one command under way; several levels separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128,512")]
    concurrency: Vec<usize>,
    /// Commands of each level; without it, more for higher levels.
    #[arg(long)]
    commands: Option<usize>,
    /// With `growth`: numbers of stored events at which is measured, with the last level of concurrency.
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000")]
    events: Vec<u64>,
    /// Updates of each order after its creation.
    #[arg(long, default_value_t = 4)]
    updates: usize,
    /// Size of a command's data.
    #[arg(long, default_value_t = 1024)]
    payload_bytes: usize,
    /// Send each command with `Prefer: wait`, answered when it is COMPLETED, instead of asking for its status.
    #[arg(long)]
    one_request: bool,
    /// A host that runs already, instead of one started on a fresh folder.
    #[arg(long)]
    url: Option<String>,
    /// Bearer token for --url.
    #[arg(long)]
    token: Option<String>,
    /// Process id of the host at --url, to measure its CPU time and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Where the fresh folder is made; its disk is what is measured.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
}

/// Updates of an order of the warm-up, however many the measured ones get.
const WARM_UP_UPDATES: usize = 4;
/// More connections than this are refused by the open-file limit of most machines.
const CONCURRENCY_MAX: usize = 4096;

pub(super) async fn run(bench: Bench, output: &mut Output) -> Result<Done, Failure> {
    if bench.concurrency.iter().any(|clients| !(1..=CONCURRENCY_MAX).contains(clients)) {
        return Err(Failure::Usage(format!("--concurrency must be from 1 to {CONCURRENCY_MAX}")));
    }
    if !(128..=512 * 1024).contains(&bench.payload_bytes) {
        return Err(Failure::Usage("--payload-bytes must be from 128 to 524288".into()));
    }
    if bench.workload == Workload::Growth {
        return growth::run(&bench, output).await;
    }
    let host = match &bench.url {
        Some(url) => Host::running(url, bench.token.clone(), bench.pid)?,
        None => Host::start(&bench.folder).await?,
    };
    let orders = Orders::prepare(&host, bench.payload_bytes, bench.one_request).await?;
    let warm_up = Size { clients: 8, orders: 40, updates: bench.updates.min(WARM_UP_UPDATES) };
    orders.run(&host, warm_up, &output.bar(warm_up.commands(), "warm up")).await?;
    let mut levels = Vec::new();
    for clients in &bench.concurrency {
        let commands = bench.commands.unwrap_or_else(|| default_commands(*clients));
        let orders_count = (commands / (1 + bench.updates)).max(*clients);
        let size = Size { clients: *clients, orders: orders_count, updates: bench.updates };
        let bar = output.bar(size.commands(), "commands");
        levels.push(report::level(&host, &orders, size, &bar).await?);
        bar.finish_and_clear();
    }
    host.stop().await?;
    // Last: while the files that it makes and removes are fresh, file systems are slow to make others.
    output.note("measuring the disk");
    let disk = floor::measure(&bench.folder)?;
    // What a host that runs elsewhere is configured with is not known.
    let remote = match &bench.url {
        Some(_) => Floors::default(),
        None => {
            output.note("measuring the remote parts");
            app::floors(&Overrides::default().load()?.0).await?
        }
    };
    let Bench { payload_bytes, updates, one_request, .. } = bench;
    let report = report::Report { payload_bytes, updates, one_request, disk, remote, levels };
    output.result(&report.json(), |_| report.text())?;
    Ok(Done::Well)
}

/// Enough for some seconds at each level on a slow disk, and for a p99 that means something.
fn default_commands(clients: usize) -> usize {
    (1500 + 250 * clients).min(32_000)
}
