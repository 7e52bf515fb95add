//! A small HTTP/1.1 client: one connection, one request at a time, bodies of bounded size. No TLS: the host serves
//! plain HTTP, and whatever encrypts stands in front of it.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Failure;

/// Answers above this are no page of ours; the greatest is a page of 1,000 events of 768 KiB, which nobody has.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A loopback or data-centre connection is there long before.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a host is and who asks.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// `host:port`.
    authority: String,
    token: Option<String>,
}

/// One answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Client {
    /// `url` is `http://host:port`, perhaps with a final slash.
    pub fn new(url: &str, token: Option<String>) -> Result<Client, Failure> {
        let authority = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                return Err(Failure::Usage(format!("{url}: this client speaks plain http only, not {scheme}")));
            }
            None => url,
        };
        let authority = authority.trim_end_matches('/');
        if authority.is_empty() || authority.contains('/') {
            return Err(Failure::Usage(format!("{url}: a host's URL is http://host:port, without a path")));
        }
        let port_given = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if port_given { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Client { authority, token })
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let response = self.open(method, path, headers, body).await?;
        let status = response.status().as_u16();
        let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = collected.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
        Ok(Answer { status, body })
    }

    /// Sends a request and gives the answer as soon as its head is there; for streams.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await;
        let stream = match connect {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.away(&error.to_string())),
            Err(_) => return Err(self.away("no answer in time")),
        };
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.context("begin an HTTP connection")?;
        // The connection's own task; it ends when the answer is read or dropped.
        tokio::spawn(async move { connection.await.ok() });
        let mut request = Request::builder().method(method).uri(path).header("host", &self.authority);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).context("form the request")?;
        Ok(sender.send_request(request).await.with_context(|| format!("ask {}", self.authority))?)
    }

    /// `GET`, successful, as JSON.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, &[], Bytes::new()).await?.success()
    }

    /// `POST` of JSON, successful, as JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let json = [("content-type", "application/json")];
        self.send(Method::POST, path, &json, body.to_string().into()).await?.success()
    }

    fn away(&self, why: &str) -> Failure {
        Failure::Failed(anyhow::anyhow!(
            "no host answers at http://{}: {why}. Start one with `carryall serve`, or name another with --url",
            self.authority
        ))
    }
}

impl Answer {
    /// The body as JSON when the status is a success, else the problem it tells.
    pub fn success(&self) -> Result<Value, Failure> {
        self.bytes()?;
        Ok(self.json()?)
    }

    /// The body of a success, as it came.
    pub fn bytes(&self) -> Result<&[u8], Failure> {
        if !(200..300).contains(&self.status) {
            return Err(self.problem());
        }
        Ok(&self.body)
    }

    pub fn json(&self) -> anyhow::Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).context("the answer is no JSON; is this a Carryall host?")
    }

    /// What a refusal says, in one line, with what to do about a missing token.
    pub fn problem(&self) -> Failure {
        let Ok(Value::Object(problem)) = self.json() else {
            return Failure::Failed(anyhow::anyhow!("the host answered {} without a reason", self.status));
        };
        let field = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut text = format!("{} {}", self.status, field("title"));
        for part in [field("detail"), field("error")] {
            if !part.is_empty() {
                text.push_str(": ");
                text.push_str(&part);
            }
        }
        for name in ["expected_seq", "actual_seq"] {
            if let Some(value) = problem.get(name) {
                text.push_str(&format!(", {name} {value}"));
            }
        }
        if matches!(self.status, 401 | 403) {
            text.push_str(
                "\n  The token is --token, CARRYALL_ADMIN_TOKEN, or the file admin-token in the host's data folder \
                 (--data-dir).",
            );
        }
        Failure::Failed(anyhow::anyhow!(text))
    }
}

/// Escapes one segment of a path, or a value of a query.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `?a=1&b=2` of what is given; empty when nothing is.
pub(crate) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> =
        pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", escape(value.as_ref()?)))).collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}
