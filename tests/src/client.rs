//! An HTTP client that hides nothing: status, headers and bytes of every answer.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::problem::Problem;

/// Who asks: an address, a token, headers for every request.
#[derive(Debug, Clone)]
pub struct Client {
    address: String,
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// An answer that takes longer will not come.
const ANSWERED_WITHIN: Duration = Duration::from_secs(180);
/// A command that is not decided by then is lost.
const TERMINAL_WITHIN: Duration = Duration::from_secs(180);

impl Client {
    pub fn new(address: &str) -> Client {
        Client { address: address.into(), headers: Vec::new() }
    }

    /// The same client with a bearer token.
    pub fn with_token(&self, token: &str) -> Client {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// The same client with one more header on every request.
    pub fn with(&self, name: &str, value: &str) -> Client {
        let mut client = self.clone();
        client.headers.push((name.into(), value.into()));
        client
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send("POST", path, Some(body.to_string().into())).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send("PUT", path, Some(body.to_string().into())).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send("DELETE", path, None).await
    }

    /// Any request; a body counts as JSON unless a header says otherwise.
    pub async fn send(&self, method: &str, path: &str, body: Option<Bytes>) -> anyhow::Result<Answer> {
        let exchange = self.exchange(method, path, body);
        let answer = tokio::time::timeout(ANSWERED_WITHIN, exchange).await;
        answer.with_context(|| format!("{method} {path}: no answer within {ANSWERED_WITHIN:?}"))?
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<Bytes>) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(&self.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("handshake")?;
        tokio::spawn(async move { connection.await.ok() });
        let mut request =
            Request::builder().method(Method::from_bytes(method.as_bytes())?).uri(path).header("host", &self.address);
        let typed = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if body.is_some() && !typed {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body.unwrap_or_default())).context("form the request")?;
        let response = sender.send_request(request).await.with_context(|| format!("{method} {path}"))?;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let body = response.into_body().collect().await.with_context(|| format!("body of {method} {path}"))?;
        Ok(Answer { status, headers, body: body.to_bytes() })
    }

    /// Reads a stream of server-sent events until `count` events came; gives (id, data) of each.
    pub async fn tail(&self, path: &str, count: usize) -> anyhow::Result<Vec<(String, String)>> {
        let reading = self.with("accept", "text/event-stream").read_frames(path.to_owned(), count);
        tokio::time::timeout(ANSWERED_WITHIN, reading).await.context("the stream sends too few events")?
    }

    async fn read_frames(self, path: String, count: usize) -> anyhow::Result<Vec<(String, String)>> {
        let stream = TcpStream::connect(&self.address).await.context("connect")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("handshake")?;
        tokio::spawn(async move { connection.await.ok() });
        let mut request = Request::builder().uri(&path).header("host", &self.address);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = sender.send_request(request.body(Full::new(Bytes::new()))?).await?;
        ensure!(response.status() == 200, "GET {path} as a stream answers {}", response.status());
        let kind = response.headers().get("content-type").map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        ensure!(kind.starts_with(b"text/event-stream"), "a stream of {:?}", String::from_utf8_lossy(&kind));
        let (mut text, mut events) = (Vec::new(), Vec::new());
        while events.len() < count {
            let Some(frame) = response.frame().await else { bail!("the stream ended after {} events", events.len()) };
            if let Some(data) = frame?.data_ref() {
                text.extend_from_slice(data);
            }
            while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                let frame: Vec<u8> = text.drain(..end + 2).collect();
                events.extend(parse_frame(std::str::from_utf8(&frame)?));
            }
        }
        events.truncate(count);
        Ok(events)
    }

    /// Asks for a command's status until it is terminal.
    pub async fn outcome(&self, command_id: &str) -> anyhow::Result<Value> {
        let begin = Instant::now();
        let path = format!("/api/v1/commands/{command_id}/status");
        loop {
            let status = self.with("prefer", "wait=10").get(&path).await?.expect(200)?;
            match status["status"].as_str() {
                Some("COMPLETED" | "FAILED" | "CANCELLED") => return Ok(status),
                Some("PENDING" | "PROCESSING" | "RETRYING") => {}
                other => bail!("{path} tells the status {other:?}"),
            }
            ensure!(begin.elapsed() < TERMINAL_WITHIN, "{command_id} is not terminal: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The outcome of a command that was just accepted.
    pub async fn follow(&self, accepted: Answer) -> anyhow::Result<Value> {
        let accepted = accepted.expect(202)?;
        let command_id = accepted["command_id"].as_str().context("a 202 without command_id")?;
        self.outcome(command_id).await
    }

    /// The outcome of a command that must succeed.
    pub async fn completed(&self, accepted: Answer) -> anyhow::Result<Value> {
        let status = self.follow(accepted).await?;
        ensure!(status["status"] == "COMPLETED", "not COMPLETED: {status}");
        Ok(status)
    }

    /// All items of a list, page after page.
    pub async fn pages(&self, path: &str, list: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit=1000{after}")).await?.expect(200)?;
            all.extend(page[list].as_array().with_context(|| format!("{path} has no {list}"))?.iter().cloned());
            let Some(next) = page["next"].as_str() else { return Ok(all) };
            after = format!("&after={next}");
        }
    }

    /// `POST /api/v1/commands`.
    pub async fn command(
        &self,
        command_type: &str,
        aggregate: (&str, &str),
        expected_seq: Option<u64>,
        payload: Value,
    ) -> anyhow::Result<Answer> {
        let mut body = json!({
            "command_type": command_type,
            "aggregate_type": aggregate.0,
            "aggregate_id": aggregate.1,
            "payload": payload,
        });
        if let Some(expected) = expected_seq {
            body["expected_seq"] = expected.into();
        }
        self.post("/api/v1/commands", &body).await
    }
}

fn parse_frame(frame: &str) -> Option<(String, String)> {
    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned());
    let data_lines = frame.lines().filter(|line| line.starts_with("data:")).count();
    assert!(data_lines <= 1, "an envelope on more than one line: {frame}");
    Some((field("id:").unwrap_or_default(), field("data:")?))
}

impl Answer {
    /// The body as JSON, when the status is the one expected.
    pub fn expect(&self, status: u16) -> anyhow::Result<Value> {
        ensure!(self.status == status, "expected {status}, got {}: {}", self.status, self.text());
        self.json()
    }

    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The refusal, when it is one of this status, and formed as RFC 9457 and the contract say.
    pub fn problem(&self, status: u16) -> anyhow::Result<Problem> {
        Problem::read(self, status)
    }
}
