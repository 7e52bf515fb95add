//! MinIO, built once from its published Go module, since it is in no package of Debian. The binary is static and is
//! kept in the cache; the caches of the build (2 GB) are not.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::Place;
use super::process::{has, run};
use crate::steps::say;

/// The last published version of the module that can be had by number.
const VERSION: &str = "v0.0.0-20260212201848-7aac2a2c5b7c";
const MODULE: &str = "github.com/minio/minio";
const ACCESS_KEY: &str = "carryall";
const SECRET_KEY: &str = "carryall-secret";

pub fn variables(port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("CARRYALL_TEST_S3_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("CARRYALL_TEST_S3_ACCESS_KEY", ACCESS_KEY.to_owned()),
        ("CARRYALL_TEST_S3_SECRET_KEY", SECRET_KEY.to_owned()),
    ]
}

fn binary(place: &Place) -> PathBuf {
    place.cache.join(format!("minio-{VERSION}")).join("minio")
}

pub fn install(place: &Place) -> anyhow::Result<()> {
    let binary = binary(place);
    if binary.is_file() {
        return Ok(());
    }
    if !has("go") {
        bail!("MinIO is built with Go 1.24 or newer, and there is no `go`: install it (Debian 12's is too old)");
    }
    say("    minio: building it, once (some minutes of CPU time; the binary is kept)");
    let build = place.cache.join("minio-build");
    let installed = build.join("bin");
    fs::create_dir_all(&installed)?;
    let mut go = Command::new("go");
    go.args(["install", "-trimpath", "-ldflags", "-s -w", &format!("{MODULE}@{VERSION}")])
        .current_dir(&build)
        .env("CGO_ENABLED", "0")
        .env("GOMODCACHE", build.join("modules"))
        .env("GOCACHE", build.join("objects"))
        .env("GOBIN", &installed)
        .env("GOFLAGS", "-mod=mod -modcacherw -buildvcs=false");
    run("go install minio", go, &place.log("install"))?;
    fs::create_dir_all(binary.parent().context("the binary lies in a folder")?)?;
    fs::rename(installed.join("minio"), &binary).context("keep the binary")?;
    fs::remove_dir_all(&build).context("remove the caches of the build")
}

pub fn command(place: &Place, port: u16) -> anyhow::Result<Command> {
    fs::create_dir_all(&place.data)?;
    let mut server = Command::new(binary(place));
    server
        .arg("server")
        .arg(&place.data)
        .args(["--address", &format!("127.0.0.1:{port}")])
        .env("MINIO_ROOT_USER", ACCESS_KEY)
        .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
        .env("MINIO_UPDATE", "off")
        .env("MINIO_BROWSER", "off");
    Ok(server)
}

/// Asks its own readiness route.
pub fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET /minio/health/ready HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
