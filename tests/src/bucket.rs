//! A bucket on the S3 server of the tests, under a name of its own: what a host needs to use it, and its log as it
//! lies there, read without the host's code. Signs its few requests itself (AWS Signature Version 4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::client::{Answer, Client};
use crate::fresh_id;
use crate::log::Log;
use crate::server::Options;
use crate::services::{self, S3};

/// A bucket that the first host on it creates.
pub struct Bucket {
    name: String,
    server: S3,
}

/// What a host puts before its keys here.
const PREFIX: &str = "log/a";
const REGION: &str = "us-east-1";

impl Bucket {
    #[allow(clippy::new_without_default)] // Every bucket is another one.
    pub fn new() -> Bucket {
        Self::on(services::s3())
    }

    /// On a server that the tests do not share.
    pub fn on(server: S3) -> Bucket {
        Bucket { name: format!("test-{}", fresh_id().simple()), server }
    }

    /// `host:port` of the server.
    pub fn address(&self) -> &str {
        self.server.endpoint.trim_start_matches("http://")
    }

    /// A host whose log lies here.
    pub fn options(&self) -> Options {
        self.options_through(&self.server.endpoint)
    }

    /// The same, with the server at another address.
    pub fn options_through(&self, endpoint: &str) -> Options {
        Options::default()
            .with("EVENT_STORE_URL", &format!("s3://{}/{PREFIX}", self.name))
            .with("MINIO_ENDPOINT_URL", endpoint)
            .with("MINIO_ACCESS_KEY", &self.server.access_key)
            .with("MINIO_SECRET_KEY", &self.server.secret_key)
    }

    /// The secret that must be shown nowhere.
    pub fn secret(&self) -> &str {
        &self.server.secret_key
    }

    /// All keys, without the prefix.
    pub async fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let after = keys.last().map_or(String::new(), |key| encoded(&format!("{PREFIX}/{key}")));
            let query = format!("list-type=2&start-after={after}");
            let answer = self.send("GET", "", &query, None).await?;
            ensure!(answer.status == 200, "list the bucket: {}", answer.text());
            let text = answer.text();
            for found in text.split("<Key>").skip(1) {
                let key = found.split("</Key>").next().unwrap_or_default();
                let inner = key.strip_prefix(PREFIX).and_then(|key| key.strip_prefix('/'));
                keys.push(inner.with_context(|| format!("{key} is not under the prefix"))?.to_owned());
            }
            if !text.contains("<IsTruncated>true</IsTruncated>") {
                return Ok(keys);
            }
        }
    }

    pub async fn get(&self, key: &str) -> anyhow::Result<Bytes> {
        let answer = self.send("GET", &format!("/{PREFIX}/{key}"), "", None).await?;
        ensure!(answer.status == 200, "read {key}: {}", answer.text());
        Ok(answer.body)
    }

    /// Writes, whatever is there.
    pub async fn put(&self, key: &str, bytes: Bytes) -> anyhow::Result<()> {
        let answer = self.send("PUT", &format!("/{PREFIX}/{key}"), "", Some(bytes)).await?;
        ensure!(answer.status == 200, "write {key}: {}", answer.text());
        Ok(())
    }

    /// The log, read and checked as one in a folder is.
    pub async fn log(&self) -> anyhow::Result<Log> {
        let folder = tempfile::tempdir()?;
        let mut keys = self.keys().await?;
        keys.retain(|key| key.starts_with("events/"));
        let read = async |keys: Vec<String>| {
            for key in keys {
                let path = folder.path().join(&key);
                std::fs::create_dir_all(path.parent().context("a key has a folder")?)?;
                std::fs::write(path, self.get(&key).await?)?;
            }
            anyhow::Ok(())
        };
        // Some at once.
        let rest = keys.split_off(keys.len() / 2);
        let (quarter, other) = (keys.split_off(keys.len() / 2), rest.len() / 2);
        let (left, right) = rest.split_at(other);
        tokio::try_join!(read(keys), read(quarter), read(left.to_vec()), read(right.to_vec()))?;
        Log::read(folder.path())
    }

    /// Deletes everything.
    pub async fn remove(self) -> anyhow::Result<()> {
        for key in self.keys().await? {
            self.send("DELETE", &format!("/{PREFIX}/{key}"), "", None).await?;
        }
        let answer = self.send("DELETE", "", "", None).await?;
        ensure!(answer.status == 204, "delete the bucket: {}", answer.text());
        Ok(())
    }

    /// A signed request for a path in the bucket. `query` is sorted and encoded.
    async fn send(&self, method: &str, path: &str, query: &str, body: Option<Bytes>) -> anyhow::Result<Answer> {
        let path = format!("/{}{path}", self.name);
        let (day, time) = now();
        let (signed, payload) = ("host;x-amz-content-sha256;x-amz-date", "UNSIGNED-PAYLOAD");
        let headers = format!("host:{}\nx-amz-content-sha256:{payload}\nx-amz-date:{time}\n", self.address());
        let request = format!("{method}\n{path}\n{query}\n{headers}\n{signed}\n{payload}");
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(request)));
        let mut key = format!("AWS4{}", self.server.secret_key).into_bytes();
        for part in [day.as_str(), REGION, "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex(&hmac(&key, text.as_bytes()));
        let access = &self.server.access_key;
        let credential =
            format!("AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={signed}, Signature={signature}");
        let client = Client::new(self.address())
            .with("x-amz-date", &time)
            .with("x-amz-content-sha256", payload)
            .with("authorization", &credential);
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        client.send(method, &target, body).await
    }
}

/// As a value of a query that is signed.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// HMAC with SHA-256 (RFC 2104); keys here are shorter than a block.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The day and the time in UTC, as `20261121` and `20261121T140000Z`.
#[allow(clippy::disallowed_methods)] // A client outside the host has the clock of the machine.
fn now() -> (String, String) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let day = format!("{year:04}{:02}{:02}", month + 1, days + 1);
    let time = format!("{day}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60);
    (day, time)
}
