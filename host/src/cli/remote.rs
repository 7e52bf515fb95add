//! Which host a client command talks to, and with which token.

use std::path::Path;

use clap::Args;

use super::Failure;
use super::http::Client;
use super::overrides::Overrides;
use crate::config::admin_token_path;

/// Arguments of every command that talks to a running host.
#[derive(Debug, Clone, Args)]
pub(crate) struct Remote {
    /// The host, such as http://127.0.0.1:8000; without it, the configured address of this machine's host.
    #[arg(long, value_name = "URL", env = "CARRYALL_URL")]
    pub url: Option<String>,
    /// Bearer token; without it CARRYALL_ADMIN_TOKEN, then the data folder's admin-token file.
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Data folder whose admin-token file is used.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<String>,
}

impl Remote {
    /// The client for this host.
    pub fn client(&self) -> Result<Client, Failure> {
        let values = Overrides::default().values()?;
        let url = self.url.clone().unwrap_or_else(|| format!("http://{}", reachable(values.text("listen"))));
        let configured = Some(values.text("admin_token")).filter(|token| !token.is_empty()).map(str::to_owned);
        let data_dir = self.data_dir.as_deref().unwrap_or_else(|| values.text("data_dir"));
        let kept = || std::fs::read_to_string(admin_token_path(Path::new(data_dir))).ok();
        let token = self.token.clone().or(configured).or_else(kept).map(|token| token.trim().to_owned());
        Client::new(&url, token.filter(|token| !token.is_empty()))
    }
}

/// A host that listens on every address is reached over loopback.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("127.0.0.1:{port}"),
        _ => listen.to_owned(),
    }
}
