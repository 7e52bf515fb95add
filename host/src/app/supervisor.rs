//! Owns the tasks of the process: each has a name and a stop signal, and one that fails for good stops the process with
//! its error, since a host that lacks a part silently would break its promises.

use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api;

#[derive(Debug)]
struct Inner {
    tasks: TaskTracker,
    /// Tasks of the log, which the others need until their end.
    log: TaskTracker,
    /// Told to consumers and followers when the listener has drained.
    stop: CancellationToken,
    /// Stops the whole process.
    process: CancellationToken,
    failures: Mutex<Vec<String>>,
}

/// The tasks of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor(Arc<Inner>);

impl Supervisor {
    /// `process` is cancelled when a task fails.
    pub fn new(process: CancellationToken) -> Supervisor {
        Supervisor(Arc::new(Inner {
            tasks: TaskTracker::new(),
            log: TaskTracker::new(),
            stop: CancellationToken::new(),
            process,
            failures: Mutex::default(),
        }))
    }

    /// The signal that tells tasks to finish.
    pub fn signal(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Runs a task that ends by itself after the stop signal.
    pub fn spawn<E: Display + Send + 'static>(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.track(&self.0.tasks, name.into(), task);
    }

    /// Runs a task of the log, which ends when the log is closed.
    pub fn spawn_log<E: Display + Send + 'static>(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.track(&self.0.log, name.into(), task);
    }

    fn track<E: Display + Send + 'static>(
        &self,
        tracker: &TaskTracker,
        name: String,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let inner = self.0.clone();
        tracker.spawn(async move {
            // A panic is a failure like any other: it must not leave the process without the part.
            let ended = tokio::spawn(task).await;
            let failure = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic.to_string(),
            };
            tracing::error!(task = name, failure, "a part of this process failed; the process stops");
            inner.failures.lock().push(format!("{name}: {failure}"));
            inner.process.cancel();
        });
    }

    /// Tells the tasks to finish and waits for them, then closes the log and waits for its tasks.
    pub async fn stop(&self, close_log: impl Future<Output = ()>) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        close_log.await;
        self.0.log.close();
        self.0.log.wait().await;
    }

    /// The failures, if there were any.
    pub fn result(&self) -> anyhow::Result<()> {
        let failures = self.0.failures.lock();
        anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
        Ok(())
    }

    /// For readiness.
    pub fn part(&self) -> api::Part {
        let failures = self.0.failures.lock();
        let stopping = self.0.process.is_cancelled();
        let detail = match (failures.is_empty(), stopping) {
            (false, _) => failures.join("; "),
            (true, true) => "draining".to_owned(),
            (true, false) => format!("{} tasks run", self.0.tasks.len() + self.0.log.len()),
        };
        api::Part { name: "process".into(), ready: failures.is_empty() && !stopping, detail }
    }
}
