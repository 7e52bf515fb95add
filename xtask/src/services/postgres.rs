//! PostgreSQL 15 or newer, from the system's packages. Runs as the user `postgres` when this program is root, which
//! the server refuses to be.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::Place;
use super::process::{has, run};
use crate::steps::say;

/// Oldest version that will do.
const MAJOR_MIN: u32 = 15;
/// Kept for completeness of the URL: the server listens on loopback only.
const PASSWORD: &str = "carryall";

pub fn variables(port: u16) -> Vec<(&'static str, String)> {
    vec![("CARRYALL_TEST_POSTGRES_URL", format!("postgres://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"))]
}

/// The folder of `postgres`, `initdb` and `pg_isready`: the newest that Debian's layout has, else that of the path.
pub fn programs() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|major| Path::new(&format!("/usr/lib/postgresql/{major}/bin/postgres")).is_file())
        .max();
    match newest {
        Some(major) if major >= MAJOR_MIN => Some(PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))),
        _ => {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file())
        }
    }
}

pub fn install(place: &Place) -> anyhow::Result<()> {
    if programs().is_some() {
        return Ok(());
    }
    if !has("apt-get") || !(is_root()? || has("sudo")) {
        bail!("PostgreSQL {MAJOR_MIN} is not installed: `apt-get install postgresql` as root, or by other means");
    }
    say("    postgres: installing PostgreSQL with apt-get");
    // Debian would create a cluster and start it on port 5432, unless this file is there first.
    let script = "set -e; export DEBIAN_FRONTEND=noninteractive; file=/etc/postgresql-common/createcluster.conf\n\
                  [ -e $file ] || { mkdir -p ${file%/*}; echo 'create_main_cluster = false' > $file; }\n\
                  apt-get update -q\n\
                  apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold postgresql";
    let mut install = if is_root()? { Command::new("sh") } else { Command::new("sudo") };
    if !is_root()? {
        install.args(["-n", "sh"]);
    }
    install.args(["-c", script]);
    run("apt-get install postgresql", install, &place.log("install"))?;
    if programs().is_none() {
        bail!("apt-get installed no PostgreSQL {MAJOR_MIN} or newer: install one by other means");
    }
    Ok(())
}

/// Makes the cluster when there is none, writes the settings, and gives the command of the server.
pub fn command(place: &Place, port: u16) -> anyhow::Result<Command> {
    let programs = programs().context("PostgreSQL is not installed")?;
    let folder = folder(place)?;
    let data = folder.join("data");
    if !data.join("PG_VERSION").is_file() {
        let password = folder.join("password");
        fs::write(&password, format!("{PASSWORD}\n"))?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        own(&password)?;
        let mut initdb = as_postgres(&programs.join("initdb"))?;
        initdb.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password);
        initdb.args(["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"]);
        initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]);
        // An earlier attempt that was cut short leaves what initdb would stumble over.
        if data.exists() {
            fs::remove_dir_all(&data).context("remove half a cluster")?;
        }
        run("initdb", initdb, &place.log("initdb"))?;
        fs::remove_file(&password)?;
    }
    let settings = folder.join("server.conf");
    let text = format!(
        "listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = '{folder}'\n\
         data_directory = '{data}'\n\
         hba_file = '{data}/pg_hba.conf'\n\
         ident_file = '{data}/pg_ident.conf'\n\
         fsync = on\n\
         synchronous_commit = on\n\
         max_connections = 200\n",
        folder = folder.display(),
        data = data.display(),
    );
    fs::write(&settings, text).context("write the settings of PostgreSQL")?;
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o644))?;
    let mut server = as_postgres(&programs.join("postgres"))?;
    server.arg("-c").arg(format!("config_file={}", settings.display()));
    Ok(server)
}

pub fn is_ready(port: u16) -> bool {
    let Some(programs) = programs() else { return false };
    let asked =
        Command::new(programs.join("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).status();
    asked.is_ok_and(|status| status.success())
}

/// Where the cluster lies: in the place, or, when the user `postgres` cannot get there (a checkout in root's home),
/// in the folder for temporary files.
fn folder(place: &Place) -> anyhow::Result<PathBuf> {
    let mut folder = place.data.clone();
    fs::create_dir_all(&folder)?;
    if is_root()? {
        let mut test = as_postgres(Path::new("test"))?;
        let reached = test.arg("-x").arg(&folder).status().context("look whether postgres can reach the folder")?;
        if !reached.success() {
            let name: String = folder.to_string_lossy().chars().map(|c| if c == '/' { '-' } else { c }).collect();
            folder = std::env::temp_dir().join(format!("carryall{name}"));
            say(&format!("    postgres: its user cannot reach the target folder; the data is in {}", folder.display()));
            fs::create_dir_all(&folder)?;
        }
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    own(&folder)?;
    Ok(folder)
}

/// Gives a file or folder to the user the server runs as.
fn own(path: &Path) -> anyhow::Result<()> {
    if is_root()? {
        let status = Command::new("chown").arg("postgres:").arg(path).status().context("run chown")?;
        if !status.success() {
            bail!("{} cannot be given to the user postgres", path.display());
        }
    }
    Ok(())
}

fn as_postgres(program: &Path) -> anyhow::Result<Command> {
    if !is_root()? {
        return Ok(Command::new(program));
    }
    // setpriv becomes the program, so the pid stays.
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]).arg(program).current_dir("/");
    Ok(command)
}

fn is_root() -> anyhow::Result<bool> {
    Ok(fs::metadata("/proc/self").context("look at /proc")?.uid() == 0)
}
