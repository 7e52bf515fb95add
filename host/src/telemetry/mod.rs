//! Log lines: human at a terminal, one JSON object a line otherwise. Set up once by `app` or `cli`; everybody else only
//! emits. Never the place of a secret: what is logged is named field by field.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogFormat;

#[cfg(test)]
mod tests;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("CARRYALL_LOG is no level or list of filters such as `info` or `warn,carryall=debug`: {reason}")]
    Filter { reason: String },
    #[error("logging is set up already")]
    Twice,
}

/// Sends the process's log lines to stderr from now on.
pub fn init(filter: &str, format: LogFormat) -> Result<(), Error> {
    let filter = parse(filter)?;
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let done = if human {
        lines.with_target(false).with_ansi(io::stderr().is_terminal()).finish().try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().try_init()
    };
    done.map_err(|_| Error::Twice)
}

/// A bare level holds for this program; its libraries then log warnings only, as their detail is not for operators.
fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let level = ["off", "error", "warn", "info", "debug", "trace"].contains(&filter);
    let text = if level && filter != "off" { format!("warn,carryall={filter}") } else { filter.to_owned() };
    EnvFilter::try_new(text).map_err(|error| Error::Filter { reason: error.to_string() })
}
