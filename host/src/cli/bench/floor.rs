//! The floor: how fast this disk makes small writes durable, whatever software is above it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::place::Place;

/// Durable writes a second, one after another.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Floor {
    /// 4 KiB appended to one file, then fdatasync.
    pub appends_per_second: f64,
    /// 4 KiB in a new file, fsync, link to its name, fsync of the folder: how a segment is written.
    pub creates_per_second: f64,
}

const SAMPLE: Duration = Duration::from_secs(1);
const BLOCK: [u8; 4096] = [b'x'; 4096];

pub(super) fn measure(parent: &Path) -> anyhow::Result<Floor> {
    let place = Place::new(parent)?;
    let mut appended = File::create(place.path().join("appended"))?;
    let appends_per_second = rate(|_| {
        appended.write_all(&BLOCK)?;
        appended.sync_data()
    })?;
    let entries = File::open(place.path())?;
    let temporary = place.path().join("temporary");
    let creates_per_second = rate(|number| {
        let mut file = File::create_new(&temporary)?;
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        fs::hard_link(&temporary, place.path().join(number.to_string()))?;
        fs::remove_file(&temporary)?;
        entries.sync_all()
    })?;
    Ok(Floor { appends_per_second, creates_per_second })
}

fn rate(mut write: impl FnMut(u64) -> std::io::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < SAMPLE {
        write(count).context("write to the disk")?;
        count += 1;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}
