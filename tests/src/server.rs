//! A host process on a folder of its own.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::client::Client;
use crate::log::Log;

/// How a host is started; the defaults are the embedded default of the contract.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Environment on top of what the harness sets. The test's own environment is not passed on.
    pub environment: Vec<(String, String)>,
    /// A program, with its arguments, that becomes the host: what is to hold for the host only.
    pub through: Vec<String>,
}

impl Options {
    /// With one more variable.
    pub fn with(mut self, name: &str, value: &str) -> Options {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// A running host. Killed when dropped; its folder is deleted with it.
pub struct Server {
    child: Child,
    folder: TempDir,
    options: Options,
    address: String,
    /// Keeps other tests from the port also while no host listens.
    _port: File,
}

/// A process that is told things from outside.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pid: u32,
}

impl Process {
    /// Sends a signal, by its name without SIG.
    pub fn signal(self, name: &str) -> anyhow::Result<()> {
        let told = Command::new("kill").args([&format!("-{name}"), &self.pid.to_string()]).status();
        ensure!(told.context("send a signal")?.success(), "SIG{name} cannot be sent");
        Ok(())
    }

    /// Whether it stands still after a SIGSTOP.
    pub fn is_stopped(self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name before the state may hold anything, a parenthesis included.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }
}

/// The operator's token of every host started here.
pub const ADMIN_TOKEN: &str = "operator-token-of-the-black-box-tests";
/// A first start compiles the bundled handlers, on a machine that runs many tests at once.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// A drain finishes what is in flight; a host that takes longer hangs.
const STOPPED_WITHIN: Duration = Duration::from_secs(90);

/// The binary under test: `CARRYALL_BIN`, else what cargo built beside this test.
pub fn binary() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("CARRYALL_BIN") {
        Some(path) => PathBuf::from(path),
        None => profile_folder()?.join("carryall"),
    };
    ensure!(path.is_file(), "the binary under test is not built: run `cargo xtask test`, or `cargo build -p carryall`");
    Ok(path)
}

/// A component built by xtask: `account` is read from `target/handlers/examples`, bundled ones from `target/handlers`.
pub fn component(name: &str) -> anyhow::Result<Vec<u8>> {
    let folder = match std::env::var_os("CARRYALL_COMPONENTS") {
        Some(folder) => PathBuf::from(folder),
        None => profile_folder()?.parent().context("the target folder")?.join("handlers"),
    };
    let file = format!("{name}.wasm");
    for path in [folder.join("examples").join(&file), folder.join(&file)] {
        if path.is_file() {
            return std::fs::read(&path).with_context(|| format!("read {}", path.display()));
        }
    }
    bail!("the component {name} is not built: run `cargo xtask handlers`")
}

/// `target/debug`, from `target/debug/deps/<this test>`.
pub(crate) fn profile_folder() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("find this test")?;
    let folder = test.parent().and_then(Path::parent).context("a test lies in target/<profile>/deps")?;
    Ok(folder.to_owned())
}

/// Runs the binary with arguments to its end, in an empty environment and folder.
pub fn run_to_end(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let mut command = Command::new(binary()?);
    command.args(arguments).env_clear().current_dir(folder.path()).stdin(Stdio::null());
    command.envs(environment.iter().copied()).output().context("run the binary")
}

impl Server {
    /// Starts a host on a fresh folder and waits until it is ready.
    pub async fn start(options: Options) -> anyhow::Result<Server> {
        let mut server = Self::begin(None, options)?;
        server.wait_ready().await?;
        keep_compiled(&server.data().join("cache"))?;
        Ok(server)
    }

    /// Starts a host on a fresh folder, or on a copy of the data folder of another one at rest, and does not wait for
    /// it: it may end before it is ready.
    pub fn begin(data: Option<&Path>, options: Options) -> anyhow::Result<Server> {
        let folder = tempfile::tempdir().context("make a folder")?;
        match data {
            Some(data) => copy(data, &folder.path().join("data"))?,
            None => take_compiled(&folder.path().join("data/cache"))?,
        }
        let (address, port) = free_address()?;
        let child = Self::spawn(folder.path(), &address, &options)?;
        Ok(Server { child, folder, options, address, _port: port })
    }

    fn spawn(folder: &Path, address: &str, options: &Options) -> anyhow::Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("host.log"))?;
        let mut command = match options.through.split_first() {
            None => Command::new(binary()?),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary()?);
                command
            }
        };
        if options.environment.iter().any(|(_, value)| value.contains("=stop")) {
            // One that stands still, in the group of the tests, would have the kernel end all of it (SIGHUP) when
            // the shell behind the tests goes away.
            command.process_group(0);
        }
        command
            .arg("serve")
            .env_clear()
            .env("CARRYALL_LISTEN", address)
            .env("CARRYALL_DATA_DIR", folder.join("data"))
            .env("CARRYALL_ADMIN_TOKEN", ADMIN_TOKEN)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command.spawn().context("start the host")
    }

    /// Waits until the host is ready; an error when it ends before, or takes too long.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let client = self.client();
        loop {
            if let Ok(answer) = client.get("/ready").await
                && answer.status == 200
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the host ended at its start ({status}):\n{}", self.host_log());
            }
            ensure!(begin.elapsed() < READY_WITHIN, "not ready after {READY_WITHIN:?}:\n{}", self.host_log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A client without a token.
    pub fn client(&self) -> Client {
        Client::new(&self.address)
    }

    /// A client with the operator's token.
    pub fn operator(&self) -> Client {
        self.client().with_token(ADMIN_TOKEN)
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process as others on this machine see it.
    pub fn process(&self) -> Process {
        Process { pid: self.pid() }
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the host wrote to stderr so far.
    pub fn host_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("host.log")).unwrap_or_default()
    }

    /// The event log as it lies on the disk, read and checked without the host's code.
    pub fn log(&self) -> anyhow::Result<Log> {
        Log::read(&self.data().join("store"))
    }

    /// SIGKILL: no drain, no flush.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("kill the host")?;
        self.child.wait().context("wait for the killed host")?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        // One that has ended has no number any more that is its own.
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.process().signal("TERM")?;
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(begin.elapsed() < STOPPED_WITHIN, "goes on {STOPPED_WITHIN:?} after SIGTERM:\n{}", self.host_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How the host ended, if it did.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Starts the host again on the same folder and address with other options, after a kill or an end.
    pub async fn start_again_with(&mut self, options: Options) -> anyhow::Result<()> {
        self.options = options;
        self.start_again().await
    }

    /// Starts the host again on the same folder and address, after a kill or an end.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.begin_again()?;
        self.wait_ready().await
    }

    /// The same without waiting for it.
    pub fn begin_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.try_wait()?.is_some(), "the host still runs");
        self.child = Self::spawn(self.folder.path(), &self.address, &self.options)?;
        Ok(())
    }

    /// Options of later starts.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Runs another command of the binary against this host's folder, to its end.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary()?);
        command
            .args(arguments)
            .env_clear()
            .env("CARRYALL_LISTEN", &self.address)
            .env("CARRYALL_DATA_DIR", self.data())
            .env("CARRYALL_ADMIN_TOKEN", ADMIN_TOKEN)
            .envs(self.options.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command.output().context("run the binary")
    }

    /// Starts a second host on the same folder; gives its end.
    pub fn second_on_the_same_folder(&self) -> anyhow::Result<Output> {
        let (address, _port) = free_address()?;
        let mut command = Command::new(binary()?);
        command
            .arg("serve")
            .env_clear()
            .env("CARRYALL_LISTEN", address)
            .env("CARRYALL_DATA_DIR", self.data())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command.output().context("run a second host")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Compiling the bundled handlers takes seconds in a dev build, so hosts begin with the code that one before them
/// compiled. It is derived, found by the component's digest and the engine's version: a stale copy is never used.
fn take_compiled(to: &Path) -> anyhow::Result<()> {
    let kept = kept_compiled()?;
    if kept.is_dir() { copy(&kept, to) } else { Ok(()) }
}

/// Keeps what a host compiled, for the next ones. Tests of several processes may do so at once: the first one wins.
fn keep_compiled(from: &Path) -> anyhow::Result<()> {
    let kept = kept_compiled()?;
    if kept.exists() || !from.is_dir() {
        return Ok(());
    }
    let parent = kept.parent().context("the kept code lies in a folder")?;
    let draft = tempfile::tempdir_in(parent)?;
    copy(from, draft.path())?;
    match std::fs::rename(draft.path(), &kept) {
        Err(_) if kept.is_dir() => Ok(()),
        result => result.context("keep the compiled handlers"),
    }
}

/// A folder of this binary's own, so that another build begins anew.
fn kept_compiled() -> anyhow::Result<PathBuf> {
    let built = std::fs::metadata(binary()?)?.modified()?.duration_since(std::time::UNIX_EPOCH)?;
    Ok(profile_folder()?.join(format!("compiled-handlers-{}", built.as_nanos())))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// An address, and the lock that keeps other tests from drawing it while its server is not up. Below the ports that
/// outgoing connections get: one of those could take it while its server is started again.
fn free_address() -> anyhow::Result<(String, File)> {
    let locks = profile_folder()?.join("ports");
    std::fs::create_dir_all(&locks)?;
    for _ in 0..100 {
        let port = 16_384 + RandomState::new().hash_one(()) % 16_384;
        let lock = File::create(locks.join(port.to_string()))?;
        let address = format!("127.0.0.1:{port}");
        if lock.try_lock().is_ok() && std::net::TcpListener::bind(&address).is_ok() {
            return Ok((address, lock));
        }
    }
    bail!("no port is free")
}
