//! Every setting as a flag, generated from the table of settings, so that the three names of a setting cannot drift.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use super::Failure;
use crate::config::{Config, Inputs, SETTINGS, Values};

/// Settings given as flags, and the file to read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    pub flags: BTreeMap<String, String>,
    file: Option<String>,
}

/// The keys with hyphens; clap wants names that live as long as the program.
static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(|setting| setting.key.replace('_', "-")).collect());

const DEFAULT_FILE: &str = "carryall.toml";

impl Overrides {
    /// The effective configuration of this process.
    pub fn load(&self) -> Result<(Config, Values), Failure> {
        Ok(Config::load(&self.inputs()?)?)
    }

    /// The arguments that these were read from, for a process started with the same settings.
    pub fn arguments(&self) -> Vec<String> {
        let file = self.file.iter().map(|file| format!("--config={file}"));
        let flags = self.flags.iter().map(|(key, value)| format!("--{}={value}", key.replace('_', "-")));
        file.chain(flags).collect()
    }

    /// All sources. A file that is named must exist; the default one may be missing.
    pub fn inputs(&self) -> Result<Inputs, Failure> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = self.file.clone().or_else(|| environment.get("CARRYALL_CONFIG").cloned());
        let name = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let file = match std::fs::read_to_string(&name) {
            Ok(text) => Some((name, text)),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::Usage(format!("the configuration file {name} cannot be read: {error}"))),
        };
        Ok(Inputs { flags: self.flags.clone(), environment, file })
    }

    /// The texts that hold, however wrong others are: what a client needs to find its host.
    pub fn values(&self) -> Result<Values, Failure> {
        Ok(Values::layer(&self.inputs()?, &mut Vec::new()))
    }
}

impl Args for Overrides {
    fn augment_args(mut command: Command) -> Command {
        command = command.arg(
            Arg::new("config_file")
                .long("config")
                .value_name("FILE")
                .help("Configuration file; without it, carryall.toml when it exists [env: CARRYALL_CONFIG]"),
        );
        for (setting, flag) in SETTINGS.iter().zip(FLAGS.iter()) {
            let default =
                if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
            command = command.arg(
                Arg::new(setting.key)
                    .long(flag.as_str())
                    .value_name("VALUE")
                    .hide_short_help(!SHORT_HELP.contains(&setting.key))
                    .help(format!("{} [env: {}]{default}", setting.help, setting.variable)),
            );
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The settings that `-h` shows; `--help` shows all.
const SHORT_HELP: [&str; 4] = ["listen", "data_dir", "log", "tokens_file"];

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut overrides = Overrides::default();
        overrides.update_from_arg_matches(matches)?;
        Ok(overrides)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.file = matches.get_one::<String>("config_file").cloned();
        for setting in SETTINGS {
            if let Some(value) = matches.get_one::<String>(setting.key) {
                self.flags.insert(setting.key.to_owned(), value.clone());
            }
        }
        Ok(())
    }
}

/// Reads an argument that may be a text, `@file`, or `-` for stdin.
pub(crate) fn text_argument(argument: &str) -> Result<String, Failure> {
    let text = match argument.strip_prefix('@') {
        _ if argument == "-" => std::io::read_to_string(std::io::stdin()).context("read stdin")?,
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("read {path}"))?,
        None => argument.to_owned(),
    };
    Ok(text)
}
