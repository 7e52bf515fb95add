//! The builds of projections (decision 0011): which there are, which one readers see, and the deletion of those that
//! nobody sees any more, in steps, so that none holds up the one writer for long.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::{Database, corrupt, failed, get, int, json, limit, unsigned};
use crate::adapter::rows;
use crate::port::Result;
use crate::port::read_model::builds::{Build, Builds, State, Wanted};

const BUILDS: &str = "SELECT name, handler, state, asked, id FROM projection_builds ORDER BY name";

/// Lets readers of the collections in $4 see the build $1, when it is live.
macro_rules! show {
    () => {
        "
INSERT INTO live_collections (collection, build)
SELECT value, $1 FROM json_each($4)
 WHERE EXISTS (SELECT 1 FROM projection_builds WHERE name = $1 AND state = 'live')
    ON CONFLICT (collection) DO UPDATE SET build = excluded.build;"
    };
}

const BEGIN: &str = concat!(
    "
BEGIN IMMEDIATE;
INSERT INTO projection_builds (name, handler, state, asked, id)
SELECT $1, $2, iif(EXISTS (SELECT 1 FROM projection_builds WHERE handler = $2 AND state = 'live'), 'building', 'live'),
       $3, $5
 WHERE NOT EXISTS (
    SELECT 1 FROM projection_builds
     WHERE name = $1 OR (handler = $2 AND state IN ('building', 'taking')));",
    show!(),
    "
COMMIT"
);

const TURN: &str = "
UPDATE projection_builds SET state = $3 WHERE name = $1 AND state = $2 AND state <> 'live' RETURNING name";

const TAKE_OVER: &str = concat!(
    "
BEGIN IMMEDIATE;
UPDATE projection_builds SET state = 'dropping'
 WHERE handler = $2 AND state = 'live'
   AND EXISTS (SELECT 1 FROM projection_builds WHERE name = $1 AND state = 'taking')
   AND NOT EXISTS (
    SELECT 1 FROM json_each($3) j CROSS JOIN consumer_checkpoints o
     WHERE o.consumer = j.value ->> 0
       AND o.position > coalesce((
            SELECT n.position FROM consumer_checkpoints n
             WHERE n.consumer = j.value ->> 1 AND n.partition = o.partition), 0));
UPDATE projection_builds SET state = 'live'
 WHERE name = $1 AND state = 'taking'
   AND NOT EXISTS (SELECT 1 FROM projection_builds WHERE handler = $2 AND state = 'live')
RETURNING name;
DELETE FROM live_collections WHERE build IN (SELECT name FROM projection_builds WHERE state = 'dropping');",
    show!(),
    "
COMMIT"
);

// Words of a document go with it: its number may be given again.
const DROP_SOME: &str = "
BEGIN IMMEDIATE;
DELETE FROM documents_text WHERE rowid IN (SELECT number FROM documents WHERE build = $1 LIMIT $3);
DELETE FROM documents WHERE number IN (SELECT number FROM documents WHERE build = $1 LIMIT $3) RETURNING 1;
DELETE FROM graph_nodes
 WHERE (build, kind, id) IN (SELECT build, kind, id FROM graph_nodes WHERE build = $1 LIMIT $3) RETURNING 1;
DELETE FROM graph_edges
 WHERE (build, source_kind, source_id, predicate, target_kind, target_id) IN (
    SELECT build, source_kind, source_id, predicate, target_kind, target_id FROM graph_edges
     WHERE build = $1 LIMIT $3)
RETURNING 1;
DELETE FROM graph_edge_sets
 WHERE (build, source_kind, source_id, predicate) IN (
    SELECT build, source_kind, source_id, predicate FROM graph_edge_sets WHERE build = $1 LIMIT $3)
RETURNING 1;
DELETE FROM processed_events
 WHERE (handler, event_id) IN (
    SELECT p.handler, p.event_id FROM json_each($2) j CROSS JOIN processed_events p
     WHERE p.handler = j.value LIMIT $3)
RETURNING 1;
DELETE FROM aggregate_versions
 WHERE (handler, aggregate_id) IN (
    SELECT v.handler, v.aggregate_id FROM json_each($2) j CROSS JOIN aggregate_versions v
     WHERE v.handler = j.value LIMIT $3)
RETURNING 1;
DELETE FROM consumer_checkpoints WHERE consumer IN (SELECT value FROM json_each($2));
COMMIT";

const FORGET: &str = "DELETE FROM projection_builds WHERE name = $1 AND state = 'dropping'";

#[async_trait]
impl Builds for Database {
    async fn builds(&self) -> Result<Vec<Build>> {
        let found = self.inner.readers.run(BUILDS, Arguments::default()).await.map_err(failed)?;
        let build = |row: &SqliteRow| {
            let id = get::<&str>(row, 4)?.parse().map_err(|_| corrupt("the id of a build is no UUID"))?;
            rows::build(get(row, 0)?, get(row, 1)?, get(row, 2)?, unsigned(row, 3)?, id)
        };
        found.iter().map(build).collect()
    }

    async fn begin(&self, wanted: Wanted<'_>, id: Uuid) -> Result<()> {
        let arguments = Arguments::default()
            .with(wanted.name.to_owned())
            .with(wanted.handler.to_owned())
            .with(int(wanted.asked))
            .with(json(&wanted.collections))
            .with(id.to_string());
        self.inner.writer.run(BEGIN, arguments).await.map_err(failed)?;
        Ok(())
    }

    async fn turn(&self, name: &str, from: State, to: State) -> Result<bool> {
        let arguments =
            Arguments::default().with(name.to_owned()).with(from.as_str().to_owned()).with(to.as_str().to_owned());
        Ok(!self.inner.writer.run(TURN, arguments).await.map_err(failed)?.is_empty())
    }

    async fn take_over(&self, wanted: Wanted<'_>, successors: &[(String, String)]) -> Result<bool> {
        let arguments = Arguments::default()
            .with(wanted.name.to_owned())
            .with(wanted.handler.to_owned())
            .with(json(&successors))
            .with(json(&wanted.collections));
        Ok(!self.inner.writer.run(TAKE_OVER, arguments).await.map_err(failed)?.is_empty())
    }

    async fn drop_some(&self, name: &str, consumers: &[String], count: usize) -> Result<bool> {
        if Builds::builds(self).await?.iter().any(|build| build.name == name && build.state != State::Dropping) {
            return Ok(false);
        }
        // What ended and is not written must not come back after this.
        let _one_at_a_time = self.inner.writing_claims.lock().await;
        self.forget(|ledger| ledger.drop_consumers(consumers)).await;
        let arguments = Arguments::default().with(name.to_owned()).with(json(&consumers)).with(limit(count));
        if !self.inner.writer.run(DROP_SOME, arguments).await.map_err(failed)?.is_empty() {
            return Ok(false);
        }
        let arguments = Arguments::default().with(name.to_owned());
        self.inner.writer.run(FORGET, arguments).await.map_err(failed)?;
        Ok(true)
    }
}
