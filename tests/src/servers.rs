//! Real servers for tests that stop and kill them: an instance of `xtask services` beside the one that all tests share,
//! for one test at a time. `cargo xtask test` and `cargo xtask chaos` stop it in the end.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use tokio::sync::{Mutex, MutexGuard};

use crate::server::profile_folder;
use crate::services::S3;

/// PostgreSQL, MinIO and Kafka, all of them up when a test gets them.
pub struct Servers {
    home: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::const_new(());

impl Servers {
    /// Waits for the test before this one, and starts what it left stopped.
    pub async fn up() -> anyhow::Result<Servers> {
        let _alone = ALONE.lock().await;
        let target = profile_folder()?.parent().context("the target folder")?.to_owned();
        let servers = Servers { home: target.join("services/chaos"), _alone };
        servers.xtask(&["up"]).await?;
        Ok(servers)
    }

    /// Starts one that was stopped or killed, on the port and the data it had.
    pub async fn start(&self, name: &str) -> anyhow::Result<()> {
        self.xtask(&["up", name]).await
    }

    /// Stops one as an operator does.
    pub async fn stop(&self, name: &str) -> anyhow::Result<()> {
        self.xtask(&["down", name]).await
    }

    /// SIGKILL.
    pub fn kill(&self, name: &str) -> anyhow::Result<()> {
        let note = std::fs::read_to_string(self.home.join("run").join(format!("{name}.pid")));
        let note = note.with_context(|| format!("{name} does not run"))?;
        let (pid, started) = note.trim().split_once(' ').context("a note is pid and start time")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("{name} has ended"))?;
        // The name before the state may hold anything, a parenthesis included.
        let seen = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(19));
        ensure!(seen == Some(started), "the pid of {name} is somebody else's");
        let told = Command::new("kill").args(["-KILL", pid]).status().context("send a signal")?;
        ensure!(told.success(), "{name} cannot be killed");
        Ok(())
    }

    /// URL of PostgreSQL.
    pub fn postgres(&self) -> anyhow::Result<String> {
        self.value("CARRYALL_TEST_POSTGRES_URL")
    }

    /// Address of Kafka.
    pub fn kafka(&self) -> anyhow::Result<String> {
        self.value("CARRYALL_TEST_KAFKA")
    }

    pub fn s3(&self) -> anyhow::Result<S3> {
        Ok(S3 {
            endpoint: self.value("CARRYALL_TEST_S3_ENDPOINT")?,
            access_key: self.value("CARRYALL_TEST_S3_ACCESS_KEY")?,
            secret_key: self.value("CARRYALL_TEST_S3_SECRET_KEY")?,
        })
    }

    fn value(&self, name: &str) -> anyhow::Result<String> {
        let noted = std::fs::read_to_string(self.home.join("env"))?;
        let value = noted.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        Ok(value.with_context(|| format!("{name} is not noted"))?.to_owned())
    }

    async fn xtask(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let program = profile_folder()?.join("xtask");
        ensure!(program.is_file(), "xtask is not built: run `cargo xtask chaos`");
        let mut command = tokio::process::Command::new(program);
        command.arg("services").args(arguments).env("CARRYALL_SERVICES_HOME", &self.home).stdin(Stdio::null());
        let output = command.output().await.context("run xtask")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "services {}: {said}", arguments.join(" "));
        Ok(())
    }
}
