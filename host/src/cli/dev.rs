//! `carryall dev`: a host, and a handler crate that is compiled, uploaded and activated whenever its component changes.
//! The component's digest decides, not the time of a file: what compiles to the same bytes changes nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use tokio::process::{Child, Command};

use super::http::Client;
use super::output::{Output, cell};
use super::overrides::Overrides;
use super::remote::Remote;
use super::{Done, Failure, handlers};
use crate::app::asked_to_stop;
use crate::domain::Digest;

#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Folder of the handler crate.
    #[arg(default_value = ".")]
    folder: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

/// Short enough to feel immediate, long enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A first start compiles the bundled handlers.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn run(dev: Dev, output: &mut Output) -> Result<Done, Failure> {
    if !dev.folder.join("Cargo.toml").is_file() {
        return Err(Failure::Usage(format!("{} is no crate: it has no Cargo.toml", dev.folder.display())));
    }
    // Refused here, before a host is started for nothing.
    let (config, _) = dev.overrides.load()?;
    let url = Some(format!("http://{}", config.listen));
    let mut host = Host::start(&dev.overrides)?;
    let remote = Remote { url, token: None, data_dir: Some(config.data_dir.display().to_string()) };
    let done = tokio::select! {
        asked = asked_to_stop() => asked.map_err(Failure::from),
        ended = host.child.wait() => Err(Failure::Failed(match ended {
            Ok(status) => anyhow::anyhow!("the host ended ({status})"),
            Err(error) => anyhow::Error::new(error).context("look after the host"),
        })),
        failed = watch(&dev.folder, &remote, output) => failed,
    };
    host.stop().await?;
    done.map(|()| Done::Well)
}

/// Never returns but with a failure.
async fn watch(folder: &Path, remote: &Remote, output: &mut Output) -> Result<(), Failure> {
    let client = ready(remote).await?;
    let mut seen = None;
    let mut deployed: Option<Digest> = None;
    loop {
        let now = stamp(folder)?;
        if seen.as_ref() != Some(&now) {
            seen = Some(now);
            // A crate that does not compile, or that the host refuses, is told and waited for: its author is at work.
            match deploy(folder, &client, deployed, output).await {
                Ok(digest) => deployed = Some(digest),
                Err(failure) => output.note(format!("error: {failure}")),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Compiles, and puts a changed component in charge.
async fn deploy(
    folder: &Path,
    client: &Client,
    deployed: Option<Digest>,
    output: &mut Output,
) -> Result<Digest, Failure> {
    let crate_folder = folder.to_owned();
    let built = tokio::task::spawn_blocking(move || handlers::compile(&crate_folder)).await;
    let path = built.context("the compiler's thread ended")??;
    let component = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let digest = Digest::of(&component);
    if deployed == Some(digest) {
        output.note("the component did not change");
        return Ok(digest);
    }
    let uploaded = handlers::upload(client, component).await?;
    let active = handlers::activate(client, &uploaded, &handlers::How::forced("carryall dev")).await?;
    let name = cell(&uploaded["name"]);
    output.note(format!("{name} runs at revision {}: {digest}", active["revision"]));
    Ok(digest)
}

/// The newest change below the crate's sources, and how many files there are.
fn stamp(folder: &Path) -> Result<(SystemTime, usize), Failure> {
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut count = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("read {}", next.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if name == "target" || name == ".git" || name == "data" {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                newest = newest.max(metadata.modified()?);
                count += 1;
            }
        }
    }
    Ok((newest, count))
}

/// The host's client once it answers. The token's file exists only then.
async fn ready(remote: &Remote) -> Result<Client, Failure> {
    let begin = std::time::Instant::now();
    loop {
        let failure = match remote.client()?.get("/ready").await {
            // Only now the token is sure to be there: the host accepts connections before it makes one.
            Ok(_) => return remote.client(),
            Err(failure) => failure,
        };
        if begin.elapsed() > READY_WITHIN {
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The host as a process of its own, so that its log stays whole when a compilation fails.
struct Host {
    child: Child,
}

impl Host {
    fn start(overrides: &Overrides) -> Result<Host, Failure> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command.arg("serve").args(overrides.arguments()).kill_on_drop(true);
        Ok(Host { child: command.spawn().context("start the host")? })
    }

    /// Lets it drain, and waits. A host that got the terminal's Ctrl-C already is on its way.
    async fn stop(&mut self) -> Result<(), Failure> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await.context("tell the host to stop")?;
            self.child.wait().await.context("wait for the host")?;
        }
        Ok(())
    }
}
