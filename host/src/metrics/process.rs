//! CPU time and memory of a process, as Linux tells it in `/proc`. On other systems there is none, and none is shown.

use std::path::Path;

/// What a process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    /// The greatest resident size so far.
    pub resident_peak_bytes: u64,
}

/// Linux reports process times in hundredths of a second to user space, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

impl Usage {
    /// Of the running process.
    pub fn of_self() -> Option<Usage> {
        Self::read(Path::new("/proc/self"))
    }

    /// Of another process of this machine; `None` once it has ended.
    pub fn of(pid: u32) -> Option<Usage> {
        Self::read(&Path::new("/proc").join(pid.to_string()))
    }

    fn read(folder: &Path) -> Option<Usage> {
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        Self::parse(&stat, &status)
    }

    /// Field 2 of `stat` is the command in parentheses and may hold anything, so counting starts after the last one.
    pub(super) fn parse(stat: &str, status: &str) -> Option<Usage> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let user: f64 = fields.next()?.parse().ok()?;
        let system: f64 = fields.next()?.parse().ok()?;
        Some(Usage {
            cpu_seconds: (user + system) / TICKS_PER_SECOND,
            resident_bytes: kilobytes(status, "VmRSS:")?,
            resident_peak_bytes: kilobytes(status, "VmHWM:")?,
        })
    }
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let count: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(count * 1024)
}
