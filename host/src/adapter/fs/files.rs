//! The blocking half of the folder store: files, links, syncs. Runs on threads that may block, never on the runtime's.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::unnamed;
use crate::failpoint;
use crate::metrics::{Counter, Metrics, Sync};
use crate::port::object_store::{Listing, PutIf, PutNew};
use crate::port::{Error, Result};

const WHAT: &str = "the store's folder";
/// Where files are written before they get their name; never part of a key.
const TEMPORARY: &str = "tmp";
const LOCK: &str = "tmp/lock";
/// Locked by a process while it compares and sets, where several use the folder.
const COMPARING: &str = "tmp/comparing";
/// Files written before they get their name, by this process.
static TEMPORARIES: AtomicU64 = AtomicU64::new(0);
/// Folders remembered: snapshots have one for each long stream. One that is forgotten is synced into its parent again.
const FOLDERS_MAX: usize = 10_000;
/// Tries at the lock while another process opens the folder, and the pause between two.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// Held as long as this process uses the folder.
    lock: File,
    /// Folders known to exist durably.
    folders: Mutex<HashSet<PathBuf>>,
    /// Serialises compare-and-set within this process; the folder's lock keeps others out, or the file that is given.
    comparing: Mutex<Option<File>>,
    /// Whether files can be written before they have any name.
    unnamed: bool,
    file_syncs: Counter,
    folder_syncs: Counter,
}

/// Who uses a folder at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// This process, and no other.
    Alone,
    /// This process, and others of this machine that say the same.
    WithOthers,
}

/// Takes the folder's lock; gives whether no other process has it.
fn hold(lock: &File, sharing: Sharing) -> std::result::Result<bool, TryLockError> {
    for _ in 1..LOCK_TRIES {
        match (lock.try_lock(), sharing) {
            (Err(TryLockError::WouldBlock), Sharing::WithOthers) => {}
            (held, _) => return held.map(|()| true),
        }
        match lock.try_lock_shared() {
            // Held alone for the moment that it takes another process to open it, or for good.
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            held => return held.map(|()| false),
        }
    }
    Err(TryLockError::WouldBlock)
}

fn failed(error: &io::Error) -> Error {
    Error::Unavailable { what: WHAT, reason: error.to_string() }
}

impl Files {
    pub(super) fn open(root: &Path, sharing: Sharing, metrics: &Metrics) -> Result<Files> {
        fs::create_dir_all(root.join(TEMPORARY)).map_err(|e| failed(&e))?;
        let file = |name| File::options().create(true).truncate(false).write(true).open(root.join(name));
        let lock = file(LOCK).map_err(|e| failed(&e))?;
        let alone = hold(&lock, sharing).map_err(|error| match error {
            TryLockError::WouldBlock => {
                let reason =
                    format!("another process uses {}; stop it, or give this one another folder", root.display());
                Error::Refused { what: WHAT, reason }
            }
            TryLockError::Error(error) => failed(&error),
        })?;
        let comparing = match sharing {
            Sharing::Alone => None,
            Sharing::WithOthers => Some(file(COMPARING).map_err(|e| failed(&e))?),
        };
        let files = Files {
            root: root.to_owned(),
            lock,
            folders: Mutex::new(HashSet::from([root.to_owned()])),
            comparing: Mutex::new(comparing),
            unnamed: unnamed::is_possible(&root.join(TEMPORARY)),
            file_syncs: metrics.syncs(Sync::File),
            folder_syncs: metrics.syncs(Sync::Folder),
        };
        if alone {
            files.recover().map_err(|e| failed(&e))?;
        }
        if alone && sharing == Sharing::WithOthers {
            // From here on others may come; none of them recovers while this one lives.
            files.lock.lock_shared().map_err(|e| failed(&e))?;
        }
        Ok(files)
    }

    /// As on a system that has no files without a name.
    #[cfg(test)]
    pub(super) fn with_names_only(self) -> Files {
        Files { unnamed: false, ..self }
    }

    /// Removes what an earlier run left half done, and makes durable what it may have linked without the sync that
    /// follows: whatever a reader sees from now on stays.
    fn recover(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join(TEMPORARY))? {
            let path = entry?.path();
            if path != self.root.join(LOCK) && path != self.root.join(COMPARING) {
                fs::remove_file(path)?;
            }
        }
        let events = self.root.join("events");
        if events.exists() {
            self.sync_tree(&events)?;
        }
        self.sync_folder(&self.root)
    }

    fn sync_tree(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // A folder of segments holds no folders: one look tells.
            if !entry.file_type()?.is_dir() {
                break;
            }
            self.sync_tree(&entry.path())?;
        }
        self.sync_folder(folder)
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        let fits = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\\']);
        if key.split('/').all(fits) && key.split('/').next() != Some(TEMPORARY) {
            return Ok(self.root.join(key));
        }
        Err(Error::Refused { what: WHAT, reason: format!("{key:?} is no key") })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.folder_syncs.add(1);
        File::open(folder)?.sync_all()
    }

    /// Makes the parent of a file exist durably.
    fn parent(&self, path: &Path) -> io::Result<PathBuf> {
        let parent = path.parent().unwrap_or(&self.root).to_owned();
        if self.folders.lock().contains(&parent) {
            return Ok(parent);
        }
        let above = self.parent(&parent)?;
        match fs::create_dir(&parent) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        self.sync_folder(&above)?;
        let mut folders = self.folders.lock();
        if folders.len() >= FOLDERS_MAX {
            *folders = HashSet::from([self.root.clone()]);
        }
        folders.insert(parent.clone());
        Ok(parent)
    }

    /// Writes the bytes durably under a name that no key has.
    fn write_temporary(&self, bytes: &[u8]) -> io::Result<Temporary> {
        let (path, mut file) = under_a_free_name(&self.root.join(TEMPORARY), |path| File::create_new(path))?;
        let temporary = Temporary(path);
        self.write(&mut file, bytes)?;
        Ok(temporary)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)?;
        self.file_syncs.add(1);
        file.sync_data()
    }

    /// Writes the bytes durably, before any key has them.
    fn write_new(&self, bytes: &[u8]) -> io::Result<Written> {
        if !self.unnamed {
            return Ok(Written::Named(self.write_temporary(bytes)?));
        }
        let mut file = unnamed::create(&self.root.join(TEMPORARY))?;
        self.write(&mut file, bytes)?;
        Ok(Written::Unnamed(file))
    }

    pub(super) fn put_new(&self, key: &str, bytes: &[u8]) -> Result<PutNew> {
        let path = self.path(key)?;
        let parent = self.parent(&path).map_err(|e| failed(&e))?;
        let written = self.write_new(bytes).map_err(|e| failed(&e))?;
        failpoint::pass("put.after_write");
        let answer = match written.link(&path) {
            Ok(()) => PutNew::Created,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => PutNew::Exists,
            Err(error) => return Err(failed(&error)),
        };
        failpoint::pass("put.after_link");
        // Also when it exists: the caller acts on the occupant, so it must be there to stay.
        match self.sync_folder(&parent) {
            Ok(()) => Ok(answer),
            Err(error) => {
                tracing::warn!(key, %error, "a folder could not be synced: the write is not known to last");
                Ok(PutNew::Unknown)
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match fs::read(self.path(key)?) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    pub(super) fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(key)?;
        let write = || {
            let parent = self.parent(&path)?;
            let temporary = self.write_temporary(bytes)?;
            fs::rename(&temporary.0, &path)?;
            self.sync_folder(&parent)
        };
        write().map_err(|e| failed(&e))
    }

    pub(super) fn put_if(&self, key: &str, expected: Option<&Bytes>, bytes: &[u8]) -> Result<PutIf> {
        let comparing = self.comparing.lock();
        let Some(file) = &*comparing else { return self.compare_and_put(key, expected, bytes) };
        file.lock().map_err(|e| failed(&e))?;
        let put = self.compare_and_put(key, expected, bytes);
        file.unlock().map_err(|e| failed(&e))?;
        put
    }

    fn compare_and_put(&self, key: &str, expected: Option<&Bytes>, bytes: &[u8]) -> Result<PutIf> {
        if self.get(key)?.as_ref() != expected {
            return Ok(PutIf::Changed);
        }
        self.put(key, bytes)?;
        Ok(PutIf::Written)
    }

    pub(super) fn delete(&self, key: &str) -> Result<()> {
        match fs::remove_file(self.path(key)?) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        // One more than asked tells whether more follow.
        let mut keys = Vec::new();
        let query = Query { prefix, after, wanted: limit.saturating_add(1) };
        self.walk("", &query, &mut keys).map_err(|e| failed(&e))?;
        let more = keys.len() > limit;
        keys.truncate(limit);
        Ok(Listing { keys, more })
    }

    /// Adds keys below a folder (`""`, or ending in `/`) in byte order. Folders sort as `name/`, as their keys do.
    fn walk(&self, folder: &str, query: &Query<'_>, keys: &mut Vec<String>) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(mut name) = entry.file_name().into_string() else { continue };
            if folder.is_empty() && name == TEMPORARY {
                continue;
            }
            if entry.file_type()?.is_dir() {
                name.push('/');
            }
            names.push(format!("{folder}{name}"));
        }
        names.sort_unstable();
        for name in names {
            if keys.len() >= query.wanted {
                break;
            }
            if name.ends_with('/') {
                if query.may_hold(&name) {
                    self.walk(&name, query, keys)?;
                }
            } else if name.starts_with(query.prefix) && query.after.is_none_or(|after| name.as_str() > after) {
                keys.push(name);
            }
        }
        Ok(())
    }
}

/// What a listing looks for.
struct Query<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    wanted: usize,
}

impl Query<'_> {
    /// Whether a key below the folder can match.
    fn may_hold(&self, folder: &str) -> bool {
        let in_prefix = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        in_prefix && self.after.is_none_or(|after| folder > after || after.starts_with(folder))
    }
}

/// Bytes that are durable and have no key yet.
enum Written {
    Unnamed(File),
    Named(Temporary),
}

impl Written {
    fn link(&self, path: &Path) -> io::Result<()> {
        match self {
            Written::Unnamed(file) => unnamed::link(file, path),
            Written::Named(temporary) => fs::hard_link(&temporary.0, path),
        }
    }
}

/// A file without a key; removed when dropped, if it is still there.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "a temporary file could not be removed; the next start removes it");
        }
    }
}

/// Makes something under a name of its own: never under one that is taken. A process in another container may have the
/// same number, and what a process that was killed left behind may be a second name of a segment.
pub(super) fn under_a_free_name<T>(folder: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    loop {
        let number = TEMPORARIES.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{}-{number}", std::process::id()));
        match make(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|made| (path, made)),
        }
    }
}
