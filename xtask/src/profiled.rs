//! `cargo xtask build --profiled`: the release binary, optimised by a profile of itself under load. Builds it
//! instrumented, lets it run the bench, and builds it again with what was counted. Twice the time of a plain build, for
//! binaries that are to run for long.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::handlers;
use crate::steps::{Workspace, say};

/// What the binary does while it counts: alone, with company, in a crowd; two requests a command, and one.
const LOADS: [&[&str]; 2] = [
    &["bench", "--workload", "orders", "--concurrency", "1,16,128", "--commands", "12000"],
    &["bench", "--workload", "orders", "--concurrency", "128", "--commands", "12000", "--one-request"],
];

/// Builds the handlers and the binary.
pub fn build(workspace: &Workspace) -> anyhow::Result<()> {
    let toolchain = Toolchain::find()?;
    let profdata = toolchain.profdata()?;
    handlers::build(workspace)?;
    let folder = workspace.target.join("profiled");
    let counts = folder.join("counts");
    if counts.exists() {
        fs::remove_dir_all(&counts).with_context(|| format!("empty {}", counts.display()))?;
    }
    fs::create_dir_all(&counts).with_context(|| format!("create {}", counts.display()))?;
    let generate = flag("-Cprofile-generate=", &counts);
    let counting = toolchain.release(workspace, "build it counting", &folder.join("counting"), generate)?;
    for load in LOADS {
        run(Command::new(&counting).args(load).current_dir(&folder), "let it run the bench")?;
    }
    let profile = folder.join("carryall.profdata");
    run(Command::new(profdata).arg("merge").arg("-o").arg(&profile).arg(&counts), "merge what was counted")?;
    let use_profile = flag("-Cprofile-use=", &profile);
    let built = toolchain.release(workspace, "build it optimised", &folder.join("optimised"), use_profile)?;
    let place = workspace.release_binary();
    fs::create_dir_all(place.parent().context("the binary has a folder")?)?;
    fs::copy(&built, &place).with_context(|| format!("write {}", place.display()))?;
    say(&format!("built {}, optimised by its profile", place.display()));
    Ok(())
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(path);
    flag
}

fn run(command: &mut Command, step: &str) -> anyhow::Result<()> {
    say(&format!("==> {step}"));
    let status = command.status().with_context(|| step.to_owned())?;
    if !status.success() {
        bail!("{step}: {status}");
    }
    Ok(())
}

/// The compiler that cargo uses here.
struct Toolchain {
    sysroot: PathBuf,
    target: String,
}

impl Toolchain {
    fn find() -> anyhow::Result<Toolchain> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let asked = |arguments: &[&str]| -> anyhow::Result<String> {
            let output = Command::new(&rustc).args(arguments).output().context("ask rustc about itself")?;
            String::from_utf8(output.stdout).context("rustc's answer is no text")
        };
        let sysroot = PathBuf::from(asked(&["--print", "sysroot"])?.trim());
        let version = asked(&["--version", "--verbose"])?;
        let target = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc tells no host")?;
        Ok(Toolchain { sysroot, target: target.to_owned() })
    }

    /// The tool that merges what was counted, of the same LLVM as the compiler.
    fn profdata(&self) -> anyhow::Result<PathBuf> {
        let tool = self.sysroot.join("lib/rustlib").join(&self.target).join("bin/llvm-profdata");
        if !tool.is_file() {
            let mut install = Command::new("rustup");
            run(install.args(["component", "add", "llvm-tools"]), "install the toolchain's llvm-tools")?;
        }
        if !tool.is_file() {
            bail!("{} is not there: install the component llvm-tools of the toolchain", tool.display());
        }
        Ok(tool)
    }

    /// Builds the release binary with one more flag of the compiler, in a target folder of its own. Named as a target,
    /// so that build scripts and macros are built without the flag.
    fn release(&self, workspace: &Workspace, step: &str, folder: &Path, flag: OsString) -> anyhow::Result<PathBuf> {
        let components = folder.join("handlers");
        fs::create_dir_all(&components).with_context(|| format!("create {}", components.display()))?;
        for name in handlers::BUNDLED {
            let file = format!("{name}.wasm");
            fs::copy(workspace.target.join("handlers").join(&file), components.join(&file))
                .with_context(|| format!("copy {file}"))?;
        }
        let arguments = ["build", "--release", "--package", "carryall", "--bin", "carryall", "--target", &self.target];
        let mut cargo = workspace.cargo(&arguments);
        run(cargo.env("CARGO_TARGET_DIR", folder).env("RUSTFLAGS", flag), step)?;
        Ok(folder.join(&self.target).join("release/carryall"))
    }
}
