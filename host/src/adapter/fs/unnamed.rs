//! Files without a name: written and synced, then linked to the name of a key, all at once or not at all. Saves the
//! folder an entry that comes and goes, a fifth of what a small write takes; and nothing is left over by a crash.

use std::fs::File;
use std::io;
use std::path::Path;

use super::files::under_a_free_name;

/// Whether the file system below a folder, and what else it takes, can do this. Leaves nothing behind.
pub(super) fn is_possible(folder: &Path) -> bool {
    let linked = create(folder).and_then(|file| under_a_free_name(folder, |name| link(&file, name)));
    linked.is_ok_and(|(name, ())| std::fs::remove_file(name).is_ok())
}

/// A file that is gone when it is closed, unless it was linked.
#[cfg(target_os = "linux")]
pub(super) fn create(folder: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(open(folder, flags, Mode::from_raw_mode(0o666))?.into())
}

/// Gives it its name; `AlreadyExists` when that is taken.
#[cfg(target_os = "linux")]
pub(super) fn link(file: &File, name: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd as _;
    // By its descriptor itself it takes a privilege.
    let open_file = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, open_file, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn create(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
