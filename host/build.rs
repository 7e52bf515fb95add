//! Embeds the bundled handler components: every `*.wasm` directly in `<target folder>/handlers`, put there by
//! `cargo xtask build`. Without that folder the table is empty, so that plain `cargo check` works on a fresh clone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let workspace = manifest.parent().expect("the host is a folder of the workspace");
    let folder = match env::var_os("CARGO_TARGET_DIR") {
        Some(target) => workspace.join(target),
        None => workspace.join("target"),
    }
    .join("handlers");
    // A folder that does not exist would make cargo run this script at every build.
    fs::create_dir_all(&folder).expect("the target folder can be written");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let table = table(&components(&folder));
    fs::write(out.join("bundled.rs"), table).expect("OUT_DIR can be written");
}

fn components(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder was just created")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    found.sort();
    found
}

fn table(components: &[PathBuf]) -> String {
    let mut text = String::from("&[\n");
    for path in components {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("components have plain names");
        let file = path.to_str().expect("the target folder has a plain name");
        writeln!(text, "    ({stem:?}, include_bytes!({file:?}) as &[u8]),").expect("a String takes any text");
    }
    text.push_str("]\n");
    text
}
