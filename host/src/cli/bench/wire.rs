//! One keep-alive HTTP/1.1 connection, as cheap as a generator needs it: requests are bytes put together by hand,
//! answers are read in place. Understands what our host sends (a length, no chunks) and refuses anything else.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection with its buffers.
pub(super) struct Wire {
    stream: TcpStream,
    /// The constant part of each request: host and token.
    constant: String,
    out: Vec<u8>,
    read: Vec<u8>,
}

/// One answer; the body lies in the connection's buffer until the next request.
pub(super) struct Reply<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

/// An answer of the routes used here is far smaller.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Wire {
    pub async fn connect(authority: &str, token: Option<&str>) -> anyhow::Result<Wire> {
        let stream = TcpStream::connect(authority).await.with_context(|| format!("connect to {authority}"))?;
        stream.set_nodelay(true)?;
        let mut constant = format!("host: {authority}\r\n");
        if let Some(token) = token {
            constant.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        Ok(Wire { stream, constant, out: Vec::with_capacity(4096), read: Vec::with_capacity(16 * 1024) })
    }

    /// Sends one request and reads its answer. `headers` are whole lines, each ended by CRLF.
    pub async fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> anyhow::Result<Reply<'_>> {
        self.out.clear();
        write!(self.out, "{method} {path} HTTP/1.1\r\n{}{headers}", self.constant)?;
        if !body.is_empty() {
            write!(self.out, "content-type: application/json\r\ncontent-length: {}\r\n", body.len())?;
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body);
        self.stream.write_all(&self.out).await.context("send a request")?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<Reply<'_>> {
        self.read.clear();
        let body_at = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = std::str::from_utf8(&self.read[..body_at]).context("the answer's head is no text")?;
        let (status, length) = parse_head(head)?;
        if length > ANSWER_BYTES_MAX {
            bail!("an answer of {length} bytes");
        }
        while self.read.len() < body_at + length {
            self.more().await?;
        }
        Ok(Reply { status, body: &self.read[body_at..body_at + length] })
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let count = self.stream.read_buf(&mut self.read).await.context("read an answer")?;
        if count == 0 {
            bail!("the host closed the connection");
        }
        Ok(())
    }
}

/// Status and body length of an answer.
fn parse_head(head: &str) -> anyhow::Result<(u16, usize)> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("{first:?} is no HTTP status line"))?;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.trim().parse().with_context(|| format!("a content-length of {value:?}"))?;
            return Ok((status, length));
        }
    }
    if status == 204 {
        return Ok((status, 0));
    }
    bail!("an answer {status} without a content-length")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
