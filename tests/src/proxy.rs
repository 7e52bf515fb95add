//! A proxy that stands between a host and a server and misbehaves as networks do: answers are cut after the server
//! applied the request, requests are lost, late, refused or repeated. Faults are drawn from a seed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::random::Random;

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The server does it; the connection ends before an answer.
    CutAfter,
    /// The connection ends; the server hears nothing.
    CutBefore,
    /// The connection ends; the server hears of it later.
    LandsLate,
    /// An error of a proxy, before the server hears of it.
    Refused,
    /// An error of a proxy, after the server did it.
    RefusedAfter,
    Slow,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    upstream: String,
    random: Random,
    /// Faults in a thousand requests.
    per_mille: AtomicU64,
    faults: AtomicU64,
    away: AtomicBool,
    delay_ms: AtomicU64,
}

const LATE: Duration = Duration::from_millis(150);

impl Proxy {
    /// Stands before `upstream` (`host:port`); behaves until it is told otherwise.
    pub async fn start(upstream: &str, seed: u64) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("find a free port")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            random: Random::new(seed),
            per_mille: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            away: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
        });
        let serving = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = serving.clone();
                let service = service_fn(move |request| pass(state.clone(), request));
                // An error here is a cut connection: what this proxy is for.
                tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Proxy { address, state })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on so many of a thousand requests meet a fault.
    pub fn misbehave(&self, per_mille: u64) {
        self.state.per_mille.store(per_mille, Ordering::SeqCst);
    }

    /// The server is away: every connection ends before the server hears of a request, until it is back.
    pub fn away(&self, away: bool) {
        self.state.away.store(away, Ordering::SeqCst);
    }

    /// Every answer comes this much later.
    pub fn delay(&self, delay: Duration) {
        self.state.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Faults so far.
    pub fn faults(&self) -> u64 {
        self.state.faults.load(Ordering::SeqCst)
    }
}

impl State {
    fn draw(&self) -> Fault {
        if self.away.load(Ordering::SeqCst) {
            return Fault::CutBefore;
        }
        if self.random.below(1000) >= self.per_mille.load(Ordering::SeqCst) {
            return Fault::None;
        }
        self.faults.fetch_add(1, Ordering::SeqCst);
        let faults =
            [Fault::CutAfter, Fault::CutBefore, Fault::LandsLate, Fault::Refused, Fault::RefusedAfter, Fault::Slow];
        faults[self.random.below(6) as usize]
    }
}

async fn pass(state: Arc<State>, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, Full::new(body.collect().await?.to_bytes()));
    tokio::time::sleep(Duration::from_millis(state.delay_ms.load(Ordering::SeqCst))).await;
    let refused = || Response::builder().status(502).body(Full::new(Bytes::from_static(b"bad gateway")));
    match state.draw() {
        Fault::None => forward(&state.upstream, request).await,
        Fault::CutAfter => {
            forward(&state.upstream, request).await?;
            bail!("cut after")
        }
        Fault::CutBefore => bail!("cut before"),
        Fault::LandsLate => {
            tokio::spawn(async move {
                tokio::time::sleep(LATE).await;
                // Nobody waits for the answer any more.
                forward(&state.upstream, request).await.ok();
            });
            bail!("late")
        }
        Fault::Refused => Ok(refused()?),
        Fault::RefusedAfter => {
            forward(&state.upstream, request).await?;
            Ok(refused()?)
        }
        Fault::Slow => {
            tokio::time::sleep(LATE).await;
            forward(&state.upstream, request).await
        }
    }
}

/// The whole answer of the server. The `host` header stays: it is part of what was signed.
async fn forward(upstream: &str, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Full<Bytes>>> {
    let stream = TcpStream::connect(upstream).await?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move { connection.await.ok() });
    let is_head = request.method() == hyper::Method::HEAD;
    let (mut head, body) = sender.send_request(request).await?.into_parts();
    if !is_head {
        // It comes whole, so its length is set anew.
        head.headers.remove(hyper::header::TRANSFER_ENCODING);
        head.headers.remove(hyper::header::CONTENT_LENGTH);
    }
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}
