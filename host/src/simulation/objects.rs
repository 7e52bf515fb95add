//! The object store as one process reaches it: answers are lost, writes land late (also after a read said that nothing
//! is there), errors come before and after the effect, reads are cut.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::executor::OUTSIDE;
use super::world::{World, away};
use crate::codec::{checkpoint, pack};
use crate::port::Result;
use crate::port::object_store::{Listing, ObjectStore, PutIf, PutNew};

const WHAT: &str = "the object store";
/// Longest time after which a write still lands.
const LATE_MS_MAX: u64 = 6_000;

#[derive(Debug)]
pub struct SimObjects {
    pub world: Arc<World>,
    pub who: String,
}

impl SimObjects {
    fn note(&self, call: &'static str, key: &str, number: u64, outcome: &str) {
        self.world.sim.note(&self.who, call, number, || format!("{key} {outcome}"));
    }

    async fn failed(&self, call: &'static str, key: &str) -> bool {
        self.world.sim.hop().await;
        let failed = self.world.strikes(|faults| faults.before);
        if failed {
            self.note(call, key, 0, "fails");
        }
        failed
    }

    /// What comes after the effect of a write that is not conditional on its key being new.
    async fn answered<T>(&self, done: T) -> Result<T> {
        self.world.sim.hop().await;
        if self.world.strikes(|faults| faults.after) { away(WHAT) } else { Ok(done) }
    }
}

impl World {
    async fn create(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        let put = self.objects.put_new(key, bytes.clone()).await?;
        if put == PutNew::Created && key.starts_with("events/") {
            self.truth.lock().committed(&bytes);
        }
        Ok(put)
    }
}

#[async_trait]
impl ObjectStore for SimObjects {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        if self.failed("put_new", key).await {
            return away(WHAT);
        }
        if self.world.strikes(|faults| faults.lost) {
            self.note("put_new", key, 1, "is lost");
            return Ok(PutNew::Unknown);
        }
        if self.world.strikes(|faults| faults.late) {
            let ms = self.world.sim.draw(|random| random.below(LATE_MS_MAX));
            self.note("put_new", key, ms, "ms later");
            let (world, key) = (self.world.clone(), key.to_owned());
            self.world.sim.spawn(OUTSIDE, async move {
                world.sim.sleep_ms(ms).await;
                let put = world.create(&key, bytes).await;
                world.sim.note("late", "put_new", ms, || format!("{key} {put:?}"));
            });
            return Ok(PutNew::Unknown);
        }
        let put = self.world.create(key, bytes).await?;
        self.note(
            "put_new",
            key,
            put as u64,
            match put {
                PutNew::Created => "created",
                PutNew::Exists => "exists",
                PutNew::Unknown => "unknown",
            },
        );
        self.world.sim.hop().await;
        Ok(if self.world.strikes(|faults| faults.after) { PutNew::Unknown } else { put })
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        if self.failed("get", key).await {
            return away(WHAT);
        }
        let mut found = self.world.objects.get(key).await?;
        if let Some(bytes) = &mut found
            && ["events/", "snapshots/", pack::FOLDER].iter().any(|folder| key.starts_with(folder))
            && self.world.strikes(|faults| faults.cut)
        {
            let kept = self.world.sim.draw(|random| random.index(bytes.len()));
            bytes.truncate(kept);
        }
        self.note("get", key, found.as_ref().map_or(0, |bytes| bytes.len() as u64), "");
        self.world.sim.hop().await;
        Ok(found)
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        if self.failed("put", key).await {
            return away(WHAT);
        }
        self.note("put", key, bytes.len() as u64, "");
        self.world.objects.put(key, bytes).await?;
        self.answered(()).await
    }

    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        if self.failed("put_if", key).await {
            return away(WHAT);
        }
        let put = self.world.objects.put_if(key, expected, bytes.clone()).await?;
        self.note("put_if", key, put as u64, "");
        if put == PutIf::Written && key == checkpoint::KEY {
            self.world.truth.lock().relayed(&bytes);
        }
        self.answered(put).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        if self.failed("list", prefix).await {
            return away(WHAT);
        }
        self.world.objects.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        if self.failed("delete", key).await {
            return away(WHAT);
        }
        self.note("delete", key, 0, "");
        self.world.objects.delete(key).await?;
        self.answered(()).await
    }
}
