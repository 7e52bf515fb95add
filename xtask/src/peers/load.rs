//! The clients of a peer that serves HTTP: each creates an order, updates it four times with the version that it
//! expects, and begins again, with one command under way. Any answer but a 200 fails the turn: a closed loop over
//! orders of its own meets no conflict.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};

use super::{Measured, percentiles};

const UPDATES: u32 = 4;
/// With its note of so many letters, the data of a command is 1 KiB of JSON.
const NOTE_LETTERS: usize = 930;
const LETTERS: usize = 64 * 1024;
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// Heads and bodies of these servers are some hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A client needs little.
const STACK_BYTES: usize = 256 * 1024;

/// Keeps so many clients busy for that time. Orders of another `phase` have other ids.
pub fn run(port: u16, phase: &str, clients: usize, time: Duration) -> anyhow::Result<Measured> {
    let connections: Vec<Connection> = (0..clients).map(|_| Connection::open(port)).collect::<anyhow::Result<_>>()?;
    let begin = Instant::now();
    let micros = std::thread::scope(|scope| {
        let until = begin + time;
        let started = connections.into_iter().enumerate().map(|(number, connection)| {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, move || client(connection, phase, number, until)).context("start a client")
        });
        let started: Vec<_> = started.collect::<anyhow::Result<_>>()?;
        let mut micros = Vec::new();
        for client in started {
            micros.extend(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        anyhow::Ok(micros)
    })?;
    let (commands, seconds) = (micros.len() as f64, begin.elapsed().as_secs_f64());
    let (p50_ms, p99_ms) = percentiles(micros);
    Ok(Measured { commands, seconds, p50_ms, p99_ms })
}

/// The microseconds of each command.
fn client(mut connection: Connection, phase: &str, number: usize, until: Instant) -> anyhow::Result<Vec<u64>> {
    let letters = letters();
    let mut micros = Vec::new();
    for order in 0_u64.. {
        for expected in 0..=UPDATES {
            let begin = Instant::now();
            if begin >= until {
                return Ok(micros);
            }
            let id = format!("{phase}-{number}-{order}");
            let data = data(&letters, number * 1009 + micros.len());
            let (path, body) = match expected {
                0 => (format!("/order/{id}/create"), format!("{{\"data\":{data}}}")),
                _ => (format!("/order/{id}/update"), format!("{{\"expected\":{expected},\"data\":{data}}}")),
            };
            connection.post(&path, &body)?;
            micros.push(begin.elapsed().as_micros() as u64);
        }
    }
    Ok(micros)
}

/// Random letters, the same in every run: what is cut from them cannot be made much smaller.
pub(super) fn letters() -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + (state % 26) as u8)
    };
    (0..LETTERS).map(letter).collect()
}

/// The data of a command, for the command of this number: its note is cut from the letters, each at another place.
pub(super) fn data(letters: &str, number: usize) -> String {
    let at = number * 7919 % (letters.len() - NOTE_LETTERS);
    let note = &letters[at..at + NOTE_LETTERS];
    format!(
        "{{\"customer\":\"c1\",\"product\":\"p1\",\"quantity\":3,\"price\":9.5,\"currency\":\"EUR\",\
         \"note\":\"{note}\"}}"
    )
}

/// A connection that is kept, for one request at a time.
struct Connection {
    stream: TcpStream,
    port: u16,
}

impl Connection {
    fn open(port: u16) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connect to the peer")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
        Ok(Connection { stream, port })
    }

    fn post(&mut self, path: &str, body: &str) -> anyhow::Result<()> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).with_context(|| format!("send {path}"))?;
        let mut answer = Vec::with_capacity(1024);
        let mut piece = [0; 4096];
        loop {
            let read = self.stream.read(&mut piece).with_context(|| format!("read the answer to {path}"))?;
            ensure!(read > 0, "the peer closed the connection after {path}");
            answer.extend_from_slice(&piece[..read]);
            if is_whole(&answer)? {
                break;
            }
            ensure!(answer.len() < ANSWER_BYTES_MAX, "the answer to {path} is too long");
        }
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            bail!("{path} was answered with {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }
}

/// Whether the answer is there to its end, which its `content-length` says.
pub(super) fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let text = std::str::from_utf8(&answer[..head]).context("the head of an answer is no text")?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let length = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value).next();
    let length: usize = length.with_context(|| format!("an answer without its length:\n{text}"))?.trim().parse()?;
    Ok(answer.len() >= head + 4 + length)
}
