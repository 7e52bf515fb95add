//! Where on the disk a bench writes.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;

/// A fresh folder that lies apart from what is on the disk, where the file system lets it: ext4 without a journal makes
/// files slowly where many were deleted in the last minutes, as the bench before this one did. Deleted when this is
/// dropped.
pub(super) struct Place {
    _top: TempDir,
    folder: PathBuf,
}

impl Place {
    pub fn new(parent: &Path) -> anyhow::Result<Place> {
        let failed = || format!("make a folder in {}", parent.display());
        let top = tempfile::Builder::new().prefix(".carryall-bench-").tempdir_in(parent).with_context(failed)?;
        mark_as_top(top.path());
        // What is below such a top is placed by its name: one that nothing had before.
        let folder = top.path().join(top.path().file_name().with_context(failed)?);
        std::fs::create_dir(&folder).with_context(failed)?;
        Ok(Place { _top: top, folder })
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }
}

/// Asks the file system to spread what is made in a folder over the disk, not to place it nearby (`T` of chattr(1)).
#[cfg(target_os = "linux")]
fn mark_as_top(folder: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let marked = std::fs::File::open(folder).and_then(|folder| {
        let flags = ioctl_getflags(&folder)?;
        Ok(ioctl_setflags(&folder, flags | IFlags::TOPDIR)?)
    });
    // A hint, which few file systems know.
    marked.ok();
}

#[cfg(not(target_os = "linux"))]
fn mark_as_top(_: &Path) {}
