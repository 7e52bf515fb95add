//! Who may come in: the tokens file, and the operator's token that is generated when none is configured. Tokens are
//! held as digests only; the one generated is readable by the owner of the data folder alone.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::{DatabaseName, Digest};

/// What a token's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessRole {
    /// Reads.
    Reader,
    /// Sends commands.
    Commander,
    /// Everything under `/admin`.
    Operator,
}

/// One entry of the tokens file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// SHA-256 of the token.
    pub sha256: Digest,
    /// The `actor` of what its bearer does.
    pub subject: String,
    pub roles: Vec<AccessRole>,
    /// The only databases its bearer may see or change; `None`: all.
    pub databases: Option<Vec<String>>,
}

/// Why tokens cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("cannot be read: {source}")]
    Read { source: io::Error },
    #[error("must be a JSON list of {{sha256, subject, roles, databases?}}: {source}")]
    Json { source: serde_json::Error },
    #[error("has a wrong entry {index}: {reason}")]
    Entry { index: usize, reason: String },
    #[error("the operator's token cannot be kept in {}: {source}", path.display())]
    AdminToken { path: PathBuf, source: io::Error },
}

/// More tokens than this are no hand-kept file.
const TOKENS_MAX: usize = 10_000;

pub(super) fn read_tokens(path: &Path) -> Result<Vec<Token>, AccessError> {
    let bytes = fs::read(path).map_err(|source| AccessError::Read { source })?;
    let tokens: Vec<Token> = serde_json::from_slice(&bytes).map_err(|source| AccessError::Json { source })?;
    if tokens.len() > TOKENS_MAX {
        return Err(AccessError::Entry { index: TOKENS_MAX, reason: format!("at most {TOKENS_MAX} are allowed") });
    }
    for (index, token) in tokens.iter().enumerate() {
        let wrong = |reason: String| Err(AccessError::Entry { index, reason });
        if token.subject.is_empty() || token.subject.len() > 255 {
            return wrong("subject must have 1 to 255 bytes".into());
        }
        if token.roles.is_empty() {
            return wrong("roles is empty: its bearer could do nothing".into());
        }
        if tokens[..index].iter().any(|other| other.sha256 == token.sha256) {
            return wrong("the same sha256 stands twice".into());
        }
        for name in token.databases.iter().flatten() {
            if let Err(error) = DatabaseName::parse(name) {
                return wrong(error.to_string());
            }
        }
    }
    Ok(tokens)
}

/// Where the generated token of the operator is kept.
pub fn admin_token_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin-token")
}

/// The digest of the generated operator's token; makes the token at the first start. `random` gives its bytes.
/// Idempotent, and safe when two processes start at once: the first file stays.
pub fn ensure_admin_token(data_dir: &Path, random: impl FnOnce() -> [u8; 32]) -> Result<Digest, AccessError> {
    let path = admin_token_path(data_dir);
    let failed = |source| AccessError::AdminToken { path: path.clone(), source };
    fs::create_dir_all(data_dir).map_err(failed)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let token = Digest(random()).to_string();
            file.write_all(format!("{token}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            Ok(Digest::of(token.as_bytes()))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut text = String::new();
            OpenOptions::new()
                .read(true)
                .open(&path)
                .and_then(|mut file| file.read_to_string(&mut text))
                .map_err(failed)?;
            if text.trim().is_empty() {
                let empty = io::Error::new(io::ErrorKind::InvalidData, "the file is empty; delete it to get a new one");
                return Err(failed(empty));
            }
            Ok(Digest::of(text.trim().as_bytes()))
        }
        Err(error) => Err(failed(error)),
    }
}
