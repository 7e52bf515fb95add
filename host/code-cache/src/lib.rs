//! Keeps the compiled code of components on disk, so that a start does not compile them again. Derived and
//! discardable: whatever is wrong with an entry, the answer is "not here", and the caller compiles.
//!
//! Loading compiled code is the one unsafe thing the host does: the engine runs the bytes as they are. It is sound here
//! because of three checks, made on the bytes in memory after they were read, so that nothing can change in between:
//!
//! 1. **Made by us.** The folder and the file belong to the user this process runs as, and nobody else may write to
//!    them. Who can write there anyway is that user or root, and could as well replace the program.
//! 2. **Undamaged.** The file ends in a SHA-256 over its content. (The engine's own cache has no checksum: a flipped
//!    bit in it can become another machine instruction.)
//! 3. **For this engine and this component.** The checksum covers the engine's compatibility hash, which holds its
//!    version, settings and target, and the digest of the component.

use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{Hash as _, Hasher};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

#[cfg(test)]
mod tests;

/// Changes whenever the layout of a file does.
const LAYOUT: &[u8] = b"carryall code cache 1\n";
const CHECKSUM_BYTES: usize = 32;
/// Larger files are not read: the largest component allowed (32 MiB) compiles to less.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Entries kept; the oldest leave. More versions than anybody replays at once.
const ENTRIES_MAX: usize = 256;
const EXTENSION: &str = "code";

/// A folder of compiled code for one engine. Safe to share between threads and processes of one user.
#[derive(Debug)]
pub struct CodeCache {
    folder: PathBuf,
    engine_key: [u8; 32],
    user: u32,
}

impl CodeCache {
    /// Opens the folder, makes it if absent, and drops what other engines left in it.
    ///
    /// # Errors
    /// When it cannot be written, or when others than this user may write to it.
    pub fn open(folder: &Path, engine: &Engine) -> io::Result<CodeCache> {
        let mut key = KeyHasher(Sha256::new_with_prefix(LAYOUT));
        engine.precompile_compatibility_hash().hash(&mut key);
        let engine_key: [u8; 32] = key.0.finalize().into();
        make_private(folder)?;
        let own = folder.join(hex(&engine_key[..8]));
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // Only what this cache makes is removed: folders of sixteen hex digits.
            if path != own && path.is_dir() && is_hex_name(&path) {
                fs::remove_dir_all(&path)?;
            }
        }
        make_private(&own)?;
        // A file that was just made tells who we are; there is no safe call that does.
        let user = tempfile::tempfile_in(&own)?.metadata()?.uid();
        for path in [folder, &own] {
            if !is_private(&fs::symlink_metadata(path)?, user) {
                let message = "the folder for compiled code must belong to this user, and nobody else may write to it";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
            }
        }
        Ok(CodeCache { folder: own, engine_key, user })
    }

    /// The compiled code of a component, if it is here and in order. An entry that is not is removed.
    pub fn get(&self, engine: &Engine, component: &[u8; 32]) -> Option<Component> {
        let path = self.path(component);
        let found = match self.read(&path, component) {
            Ok(Some(code)) => load(engine, &code),
            Ok(None) => return None,
            Err(error) => Err(error),
        };
        found
            .inspect_err(|error| {
                tracing::warn!(%error, "an entry of the compiled-code cache is not usable; it is compiled anew");
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(%error, "and it cannot be removed");
                }
            })
            .ok()
    }

    /// Keeps the compiled code of a component. Atomic: readers see the whole entry or none.
    ///
    /// # Errors
    /// When it cannot be written. Nothing is lost but time.
    pub fn put(&self, component: &[u8; 32], code: &Component) -> io::Result<()> {
        let code = code.serialize().map_err(io::Error::other)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&code)?;
        file.write_all(&self.checksum(component, &code))?;
        file.persist(self.path(component)).map_err(|error| error.error)?;
        self.prune()
    }

    fn path(&self, component: &[u8; 32]) -> PathBuf {
        self.folder.join(hex(component)).with_extension(EXTENSION)
    }

    fn checksum(&self, component: &[u8; 32], code: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = Sha256::new_with_prefix(self.engine_key);
        hasher.update(component);
        hasher.update(code);
        hasher.finalize().into()
    }

    /// The bytes of an entry, checked; `None` when there is none.
    fn read(&self, path: &Path, component: &[u8; 32]) -> io::Result<Option<Vec<u8>>> {
        let refused = |message| io::Error::new(io::ErrorKind::InvalidData, message);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_private(&metadata, self.user) || metadata.len() > FILE_BYTES_MAX {
            return Err(refused("not a file that only this user may write"));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let Some(length) = bytes.len().checked_sub(CHECKSUM_BYTES) else { return Err(refused("cut short")) };
        let checksum = bytes.split_off(length);
        if checksum != self.checksum(component, &bytes) {
            return Err(refused("the checksum does not match"));
        }
        Ok(Some(bytes))
    }

    fn prune(&self) -> io::Result<()> {
        let mut entries: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == EXTENSION) {
                entries.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        entries.sort();
        for (_, path) in entries.iter().take(entries.len().saturating_sub(ENTRIES_MAX)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "the engine offers no safe way to load compiled code")]
fn load(engine: &Engine, code: &[u8]) -> io::Result<Component> {
    // SAFETY: the bytes were made by `Component::serialize` in a process of this user, for an engine with the same
    // compatibility hash, and have not changed since: `CodeCache::read` checked all three (see the top of this file).
    unsafe { Component::deserialize(engine, code) }.map_err(io::Error::other)
}

/// Feeds whatever is hashed to SHA-256.
struct KeyHasher(Sha256);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn is_private(metadata: &Metadata, user: u32) -> bool {
    metadata.uid() == user && metadata.mode() & 0o022 == 0 && !metadata.is_symlink()
}

fn is_hex_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
