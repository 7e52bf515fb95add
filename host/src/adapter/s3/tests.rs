//! The contract on a real server, and what every kind of answer, or the lack of one, is taken to mean.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::connect::Limits;
use super::*;
use crate::adapter::system_clock::SystemClock;
use crate::metrics::Metrics;
use crate::port::clock::Clock as _;
use crate::port::object_store::conformance;
use crate::port::object_store::probe::probe;
use crate::tests::services;

fn random() -> Uuid {
    SystemClock::new().random_id()
}

fn options(endpoint: &str, bucket: &str, prefix: &str) -> Options {
    let real = services::s3();
    Options {
        bucket: bucket.into(),
        prefix: prefix.into(),
        endpoint: Some(endpoint.into()),
        keys: Some(Keys { access: real.access_key, secret: real.secret_key }),
    }
}

/// A fresh bucket on the real server.
async fn bucket(prefix: &str, metrics: &Metrics) -> (S3Store, Options) {
    let options = options(&services::s3().endpoint, &format!("test-{}", random().simple()), prefix);
    (S3Store::open(options.clone(), random(), metrics).await.unwrap(), options)
}

async fn drop_bucket(store: &S3Store) {
    store.client.delete_bucket().bucket(&store.bucket).send().await.unwrap();
}

#[tokio::test]
async fn a_real_server_conforms() {
    for prefix in ["", "a/prefix"] {
        let store = Arc::new(bucket(prefix, &Metrics::new()).await.0);
        conformance::run(store.clone()).await;
        drop_bucket(&store).await;
    }
}

#[tokio::test]
async fn a_missing_bucket_is_made_once_and_prefixes_keep_apart() {
    let metrics = Metrics::new();
    let (one, options) = bucket("one", &metrics).await;
    let two = S3Store::open(Options { prefix: "two".into(), ..options }, random(), &metrics).await.unwrap();
    one.put("a", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(two.get("a").await.unwrap(), None);
    assert_eq!(two.list("", None, 10).await.unwrap().keys, Vec::<String>::new());
    assert_eq!(one.list("", None, 10).await.unwrap().keys, ["a"]);
    one.delete("a").await.unwrap();
    drop_bucket(&one).await;
}

#[tokio::test]
async fn requests_are_counted_by_kind() {
    let metrics = Metrics::new();
    let (store, _) = bucket("", &metrics).await;
    let requests = metrics.object_requests();
    let before = ["put", "get", "delete", "list"].map(|kind| requests.count(kind));
    assert_eq!(store.put_new("a", Bytes::from_static(b"1")).await.unwrap(), PutNew::Created);
    assert_eq!(store.put_new("a", Bytes::from_static(b"1")).await.unwrap(), PutNew::Exists);
    store.get("a").await.unwrap();
    store.list("", None, 10).await.unwrap();
    store.delete("a").await.unwrap();
    let after = ["put", "get", "delete", "list"].map(|kind| requests.count(kind));
    let sent: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(sent, [2, 1, 1, 1]);
    let shown = metrics.render();
    for line in [
        "carryall_object_seconds_count{operation=\"put_new\",outcome=\"created\"} 1",
        "carryall_object_seconds_count{operation=\"put_new\",outcome=\"exists\"} 1",
        "carryall_syncs{what=\"object\"} 1",
    ] {
        assert!(shown.contains(line), "{line} is missing in {shown}");
    }
    drop_bucket(&store).await;
}

#[tokio::test]
async fn wrong_keys_are_refused_at_the_start_with_what_is_needed() {
    let (store, options) = bucket("", &Metrics::new()).await;
    let wrong = Keys { access: "carryall".into(), secret: "not the secret".into() };
    let shown = format!("{wrong:?}");
    assert!(!shown.contains("secret"), "{shown}");
    let error = S3Store::open(Options { keys: Some(wrong), ..options }, random(), &Metrics::new()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.contains("403")), "{error}");
    drop_bucket(&store).await;
}

/// What a server that is not one does with a request.
#[derive(Clone, Copy, Debug)]
enum Reply {
    /// An answer with this status and, perhaps, an error code in S3's form.
    Says(u16, Option<&'static str>),
    /// Reads the request and hangs up.
    Cut,
    /// Half an answer, then hangs up.
    Half,
    /// Reads the request and never answers.
    Silence,
}

/// Serves one reply to every request.
async fn serve(mut stream: TcpStream, reply: Reply) {
    let mut request = vec![0; 64 * 1024];
    while let Ok(read) = stream.read(&mut request).await {
        if read == 0 {
            return;
        }
        let answer = match reply {
            Reply::Says(status, code) => {
                let body = code.map_or(String::new(), |code| {
                    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>")
                });
                format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
            Reply::Cut => return,
            Reply::Half => "HTTP/1.1 200 OK\r\ncontent-".into(),
            Reply::Silence => std::future::pending().await,
        };
        if stream.write_all(answer.as_bytes()).await.is_err() || matches!(reply, Reply::Half) {
            return;
        }
    }
}

/// A store whose server answers everything in one way.
async fn answering(reply: Reply) -> S3Store {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, reply));
        }
    });
    let patience = if matches!(reply, Reply::Silence) { Duration::from_millis(500) } else { Duration::from_secs(30) };
    unchecked(&endpoint, patience).await
}

/// A store of which nothing was asked yet.
async fn unchecked(endpoint: &str, wait: Duration) -> S3Store {
    let limits = Limits { connect: wait, attempt: wait, operation: 8 * wait };
    let options = options(endpoint, "bucket", "");
    S3Store::connect(options, limits, &Metrics::new()).await.0
}

#[tokio::test]
async fn every_answer_to_a_conditional_write_means_what_it_proves() {
    use PutNew::{Created, Exists, Unknown};
    let xml = |status, code| Reply::Says(status, Some(code));
    for (reply, want) in [
        (Reply::Says(200, None), Some(Created)),
        (xml(412, "PreconditionFailed"), Some(Exists)),
        (Reply::Says(412, None), Some(Exists)),
        (xml(409, "ConditionalRequestConflict"), Some(Unknown)),
        (xml(409, "OperationAborted"), Some(Unknown)),
        (xml(400, "RequestTimeout"), Some(Unknown)),
        (xml(500, "InternalError"), Some(Unknown)),
        (xml(503, "SlowDown"), Some(Unknown)),
        (Reply::Says(502, None), Some(Unknown)),
        (Reply::Says(504, None), Some(Unknown)),
        (xml(429, "TooManyRequests"), Some(Unknown)),
        // Who says so is not S3: a proxy may have passed the request on.
        (Reply::Says(400, None), Some(Unknown)),
        (Reply::Says(403, None), Some(Unknown)),
        (Reply::Cut, Some(Unknown)),
        (Reply::Half, Some(Unknown)),
        (Reply::Silence, Some(Unknown)),
        (xml(403, "AccessDenied"), None),
        (xml(400, "InvalidArgument"), None),
        (xml(404, "NoSuchBucket"), None),
        (xml(301, "PermanentRedirect"), None),
        (xml(501, "NotImplemented"), None),
    ] {
        let store = answering(reply).await;
        let told = store.put_new("a", Bytes::from_static(b"1")).await;
        match want {
            Some(want) => assert_eq!(told, Ok(want), "{reply:?}"),
            None => assert!(matches!(told, Err(Error::Refused { .. })), "{reply:?}: {told:?}"),
        }
        let sent = store.requests.count("put");
        assert_eq!(sent, 1, "{reply:?}: a conditional write is sent once");
    }
}

#[tokio::test]
async fn a_write_that_nobody_listened_to_was_not_written() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = unchecked(&endpoint, Duration::from_secs(30)).await;
    let told = store.put_new("a", Bytes::from_static(b"1")).await;
    assert!(matches!(told, Err(Error::Unavailable { .. })), "{told:?}");
}

#[tokio::test]
async fn only_a_missing_key_reads_as_absent() {
    let xml = |status, code| Reply::Says(status, Some(code));
    assert_eq!(answering(xml(404, "NoSuchKey")).await.get("a").await, Ok(None));
    for reply in [xml(404, "NoSuchBucket"), Reply::Says(404, None), xml(403, "AccessDenied")] {
        let told = answering(reply).await.get("a").await;
        assert!(told.is_err(), "{reply:?}: {told:?}");
    }
}

#[tokio::test]
async fn a_compare_and_set_that_is_undecided_is_an_error() {
    let xml = |status, code| Reply::Says(status, Some(code));
    let bytes = Bytes::from_static(b"1");
    assert_eq!(
        answering(xml(412, "PreconditionFailed")).await.put_if("a", None, bytes.clone()).await,
        Ok(PutIf::Changed)
    );
    for reply in [xml(409, "ConditionalRequestConflict"), xml(500, "InternalError"), Reply::Cut] {
        let told = answering(reply).await.put_if("a", None, bytes.clone()).await;
        assert!(matches!(told, Err(Error::Unavailable { .. })), "{reply:?}: {told:?}");
    }
}

/// A server that ignores the condition answers 200 to every write.
#[tokio::test]
async fn a_server_that_ignores_conditions_is_refused() {
    let real = bucket("", &Metrics::new()).await.0;
    let store = Ignoring(real);
    let error = probe(&store, random()).await.unwrap_err();
    assert!(error.to_string().contains("told that they created it"), "{error}");
    for key in store.0.list("", None, 100).await.unwrap().keys {
        store.0.delete(&key).await.unwrap();
    }
    drop_bucket(&store.0).await;
}

#[derive(Debug)]
struct Ignoring(S3Store);

#[async_trait]
impl ObjectStore for Ignoring {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        self.0.put(key, bytes).await.map(|()| PutNew::Created)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.0.get(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.0.put(key, bytes).await
    }

    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        self.0.put_if(key, expected, bytes).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        self.0.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }
}
