//! The server over real connections: limits of heads, draining.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::serve;

const GRACE: Duration = Duration::from_secs(20);

async fn start(router: Router, grace: Duration) -> (SocketAddr, CancellationToken, JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let (_, router) = tokio::sync::watch::channel(router);
    let served = tokio::spawn(serve(listener, router, stop.clone(), grace));
    (address, stop, served)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses a head may reset the connection after its answer.
    let _ = tokio::time::timeout(GRACE, socket.read_to_end(&mut answer)).await.expect("the server ends the connection");
    String::from_utf8(answer).unwrap()
}

fn quick() -> Router {
    Router::new().route("/", get(|| async { "here" }))
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_over_the_limits_are_refused() {
    let (address, stop, served) = start(quick(), GRACE).await;
    let fine = ask(address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(fine.starts_with("HTTP/1.1 200"), "{fine}");
    let many: String = (0..101).map(|index| format!("x-{index}: y\r\n")).collect();
    let refused = ask(address, &format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
    let rubbish = ask(address, "\u{1}\u{2}\u{3} rubbish\r\n\r\n").await;
    assert!(rubbish.starts_with("HTTP/1.1 400"), "{rubbish}");
    stop.cancel();
    served.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_end_before_the_server_does() {
    let (begun, ready) = tokio::sync::oneshot::channel::<()>();
    let begun = std::sync::Arc::new(parking_lot::Mutex::new(Some(begun)));
    let slow = Router::new().route(
        "/",
        get(move || async move {
            if let Some(begun) = begun.lock().take() {
                begun.send(()).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            "done"
        }),
    );
    let (address, stop, served) = start(slow, GRACE).await;
    let asked = tokio::spawn(async move { ask(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await });
    ready.await.unwrap();
    stop.cancel();
    served.await.unwrap().unwrap();
    assert!(asked.await.unwrap().ends_with("done"));
    assert!(TcpStream::connect(address).await.is_err(), "no new connection is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_is_cut_after_the_grace_period() {
    let stuck = Router::new().route("/", get(std::future::pending::<()>));
    let (address, stop, served) = start(stuck, Duration::from_millis(100)).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.cancel();
    tokio::time::timeout(GRACE, served).await.expect("the server ends").unwrap().unwrap();
}
