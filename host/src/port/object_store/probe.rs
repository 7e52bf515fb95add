//! Start-up probe: a store whose conditional writes are not exact is refused before anything is entrusted to it
//! (some servers ignore the condition, some check and then write).

use bytes::Bytes;
use futures_util::future::join_all;
use uuid::Uuid;

use super::{ObjectStore, PutIf, PutNew};
use crate::error::{Classified, Kind};
use crate::port;

/// Creators that race for one key.
const RACERS: usize = 8;
/// Attempts at a probe whose answer was not clear.
const ATTEMPTS: usize = 5;

/// Why a store is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the object store cannot hold an event log: {0}")]
    Unfit(&'static str),
    #[error("the object store gave no clear answer in {ATTEMPTS} attempts")]
    Unclear,
    #[error(transparent)]
    Port(#[from] port::Error),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Unfit(_) => Kind::Invalid,
            Error::Unclear => Kind::Unavailable,
            Error::Port(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Unfit(_) => "object_store_unfit",
            Error::Unclear => "object_store_unclear",
            Error::Port(error) => error.code(),
        }
    }
}

/// Races for a key, overwrites it under a condition, and removes it. `run` makes the keys unique.
pub async fn probe(store: &dyn ObjectStore, run: Uuid) -> Result<(), Error> {
    for attempt in 0..ATTEMPTS {
        let key = format!("snapshots/probe/{run}-{attempt}");
        let clear = race(store, &key).await?;
        let clear = clear && compare_and_set(store, &key).await?;
        store.delete(&key).await?;
        if clear {
            return Ok(());
        }
    }
    Err(Error::Unclear)
}

fn unless(fit: bool, why: &'static str) -> Result<(), Error> {
    if fit { Ok(()) } else { Err(Error::Unfit(why)) }
}

/// `false` when an answer was not clear.
async fn race(store: &dyn ObjectStore, key: &str) -> Result<bool, Error> {
    unless(store.get(key).await?.is_none(), "a key that was never written is there")?;
    let racer = |n: usize| Bytes::from(format!("racer {n}"));
    let answers = join_all((0..RACERS).map(|n| store.put_new(key, racer(n)))).await;
    let answers: Vec<PutNew> = answers.into_iter().collect::<port::Result<_>>()?;
    if answers.contains(&PutNew::Unknown) {
        return Ok(false);
    }
    let winners: Vec<usize> = (0..RACERS).filter(|n| answers[*n] == PutNew::Created).collect();
    unless(winners.len() == 1, "several writers of one key were all told that they created it")?;
    unless(store.get(key).await? == Some(racer(winners[0])), "a key does not hold what its creator wrote")?;
    let late = store.put_new(key, racer(RACERS)).await?;
    unless(late != PutNew::Created, "a key was created twice")?;
    unless(store.get(key).await? == Some(racer(winners[0])), "a refused write changed the key")?;
    Ok(late == PutNew::Exists)
}

async fn compare_and_set(store: &dyn ObjectStore, key: &str) -> Result<bool, Error> {
    let present = store.get(key).await?;
    let next = Bytes::from_static(b"next");
    let absent = store.put_if(key, None, next.clone()).await?;
    unless(absent == PutIf::Changed, "a write on condition of absence overwrote the key")?;
    let wrong = store.put_if(key, Some(next.clone()), Bytes::from_static(b"wrong")).await?;
    unless(wrong == PutIf::Changed, "a write on condition of other content overwrote the key")?;
    let right = store.put_if(key, present, next.clone()).await?;
    unless(right == PutIf::Written, "a write whose condition holds was refused")?;
    unless(store.get(key).await? == Some(next), "a conditional write was not kept")?;
    Ok(true)
}
