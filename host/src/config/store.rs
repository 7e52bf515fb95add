//! Where the event log lies: a folder, or a bucket of S3. Understands the settings that name it; opens nothing.

use std::path::{Path, PathBuf};

use super::Reader;

/// The place of the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    Folder(PathBuf),
    S3(Bucket),
}

/// A bucket, and how to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    pub name: String,
    /// Empty, or without slashes at its ends.
    pub prefix: String,
    /// Of a server other than AWS.
    pub endpoint: Option<String>,
    /// Access key and secret key; `None`: the default chain of AWS.
    pub keys: Option<(String, Secret)>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    /// The text, for the part that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Reader<'_> {
    /// `EVENT_STORE_URL`, else the bucket of `EVENT_STORE_BUCKET`, else a folder in the data folder.
    pub(super) fn store(&mut self, data_dir: &Path) -> Store {
        let (url, alone) = (self.values.text("event_store_url"), self.values.text("event_store_bucket"));
        match url.split_once(':') {
            _ if url.is_empty() && !alone.is_empty() => self.bucket("event_store_bucket", alone, ""),
            _ if url.is_empty() => Store::Folder(data_dir.join("store")),
            Some(("file", path)) if !path.trim_start_matches('/').is_empty() => {
                // `file:///srv/x` and `file:/srv/x` are the same folder.
                Store::Folder(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
            }
            Some(("s3", rest)) if rest.starts_with("//") => {
                let place = &rest[2..];
                let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
                if !alone.is_empty() && alone != name {
                    self.refuse("event_store_bucket", format!("names another bucket than EVENT_STORE_URL: {name}"));
                }
                self.bucket("event_store_url", name, prefix.trim_end_matches('/'))
            }
            _ => {
                self.refuse("event_store_url", "must be file:PATH or s3://bucket/prefix");
                Store::Folder(data_dir.join("store"))
            }
        }
    }

    fn bucket(&mut self, key: &'static str, name: &str, prefix: &str) -> Store {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if !(3..=63).contains(&name.len())
            || !name.chars().all(fits)
            || !name.starts_with(ends)
            || !name.ends_with(ends)
        {
            self.refuse(
                key,
                "must name a bucket: 3 to 63 of a-z, 0-9, `.` and `-`, with a letter or digit at its ends",
            );
        }
        let part = |part: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '=');
            !part.is_empty() && part != "." && part != ".." && part.chars().all(fits)
        };
        if !prefix.is_empty() && (prefix.len() > PREFIX_LENGTH_MAX || !prefix.split('/').all(part)) {
            self.refuse(key, "must have a prefix of letters, digits, `.`, `-`, `_` and `=` between single slashes");
        }
        let endpoint = self.values.text("minio_endpoint_url");
        if !endpoint.is_empty() && !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            self.refuse("minio_endpoint_url", "must begin with http:// or https://");
        }
        let (access, secret) = (self.values.text("minio_access_key"), self.values.text("minio_secret_key"));
        match (access.is_empty(), secret.is_empty()) {
            (true, false) => self.refuse("minio_secret_key", "needs MINIO_ACCESS_KEY beside it"),
            (false, true) => self.refuse("minio_access_key", "needs MINIO_SECRET_KEY beside it"),
            _ => {}
        }
        Store::S3(Bucket {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: Some(endpoint).filter(|url| !url.is_empty()).map(str::to_owned),
            keys: Some((access.to_owned(), Secret::new(secret))).filter(|_| !access.is_empty()),
        })
    }
}

/// Leaves room in the 1,024 bytes of a key of S3.
const PREFIX_LENGTH_MAX: usize = 512;
