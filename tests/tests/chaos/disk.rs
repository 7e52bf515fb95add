//! A host whose disk is full: a small file system of its own, in a mount namespace that ends with the test.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use carryall_tests::{Log, Options, Server, Shop, all_completed, fresh_id, read_model_is_the_fold, ready};
use serde_json::json;
use tempfile::TempDir;

use super::site::{SOON, begin_load};
use super::{length, note};

/// Room for the compiled handlers, the database and some thousand commands.
const SIZE: &str = "size=96m";

/// A file system that only programs entering its namespace see at `path`.
struct SmallDisk {
    holder: Child,
    path: TempDir,
}

impl SmallDisk {
    fn new() -> SmallDisk {
        let path = tempfile::tempdir().unwrap();
        let script = format!("mount -t tmpfs -o {SIZE} tmpfs \"$0\" && touch \"$0/there\" && exec sleep 86400");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script]).arg(path.path()).stdin(Stdio::null());
        let disk = SmallDisk { holder: command.spawn().unwrap(), path };
        let begin = Instant::now();
        while !disk.seen().join("there").exists() {
            let why = "a small file system needs user namespaces (unshare --map-root-user --mount), or root";
            assert!(begin.elapsed() < SOON, "{why}");
            std::thread::sleep(Duration::from_millis(10));
        }
        disk
    }

    /// What makes a program see it.
    fn through(&self) -> Vec<String> {
        let target = self.holder.id().to_string();
        ["nsenter", "--target", &target, "--user", "--preserve-credentials", "--mount"].map(str::to_owned).to_vec()
    }

    /// Where this process, outside of the namespace, sees it.
    fn seen(&self) -> PathBuf {
        let path = self.path.path().strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(path)
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.seen().join("ballast")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.seen().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_refuses_commands_and_serves_again_when_there_is_room() {
    let disk = SmallDisk::new();
    let place = |name: &str| disk.path.path().join(name).display().to_string();
    let options = Options { through: disk.through(), ..Options::default() };
    let options = options.with("CARRYALL_DATA_DIR", &place("data"));
    let options = options.with("EVENT_STORE_URL", &format!("file:{}", place("store")));
    let mut server = Server::start(options).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let load = begin_load((0..4).map(|_| server.client())).await;
    let begin = Instant::now();
    for round in 0.. {
        tokio::time::sleep(Duration::from_millis(700)).await;
        note("the disk is filled up");
        disk.fill();
        let body = json!({"data": {"product_id": format!("full{round}"), "name": "Pen"}});
        let sender = shop.client.with("idempotency-key", &fresh_id().to_string());
        let create = "/api/v1/instances/shop/async/Product/create";
        let waited = Instant::now();
        // What the disk had left over may still do for some commands.
        while sender.post(create, &body).await.unwrap().status == 202 {
            assert!(waited.elapsed() < SOON, "a full disk takes commands");
            disk.fill();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(shop.client.get("/health").await.unwrap().status, 200);
        tokio::time::sleep(length() / 4).await;
        if round == 1 {
            note("the host is killed on a full disk, and started");
            server.kill().unwrap();
            server.begin_again().unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(server.ended().unwrap().is_none(), "it does not wait for room:\n{}", server.host_log());
        }
        note("there is room again");
        disk.free();
        ready(&server.client(), 200).await.unwrap();
        if begin.elapsed() > length() && round > 0 {
            break;
        }
    }
    let accepted = load.finish().await.unwrap();
    assert!(accepted.len() > 20, "too little was accepted to prove anything: {}", accepted.len());
    all_completed(&shop.client, &accepted).await.unwrap();
    let log = Log::read(&disk.seen().join("store")).unwrap();
    for id in &accepted {
        assert_eq!(log.outcome(id).len(), 1, "{id} has not exactly one outcome");
    }
    assert!(log.undecided().is_empty());
    read_model_is_the_fold(&shop.client, &log).await.unwrap();
    disk.fill();
    assert!(server.terminate().await.unwrap().success(), "a drain on a full disk fails:\n{}", server.host_log());
    let outside = tempfile::tempdir().unwrap();
    for name in ["data", "store"] {
        copy(&disk.seen().join(name), &outside.path().join(name));
    }
    let kept = |name: &str| outside.path().join(name).display().to_string();
    let store = format!("file:{}", kept("store"));
    let environment = [("CARRYALL_DATA_DIR", kept("data")), ("EVENT_STORE_URL", store)];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for command in [&["verify", "--json"][..], &["check", "--sample", "40", "--json"]] {
        let checked = carryall_tests::run_to_end(command, &environment).unwrap();
        let said = [checked.stdout, checked.stderr].concat();
        assert!(checked.status.success(), "{command:?} finds: {}", String::from_utf8_lossy(&said));
    }
}
