//! The builds of projections (decision 0011): which there are, which one readers see, and the deletion of those that
//! nobody sees any more, in steps, so that none locks rows for long.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::values::Id;
use super::{Database, get, unsigned, uuid};
use crate::adapter::rows::{self, int, limit};
use crate::port::Result;
use crate::port::read_model::builds::{Build, Builds, State, Wanted};

const BUILDS: &str = "SELECT name, handler, state, asked, id FROM projection_builds ORDER BY name";

// Of two processes that begin one at the same time, a unique index refuses the second.
const BEGIN: &str = "
WITH begun AS (
    INSERT INTO projection_builds (name, handler, state, asked, id)
    SELECT $1, $2, CASE WHEN EXISTS (SELECT 1 FROM projection_builds WHERE handler = $2 AND state = 'live')
                        THEN 'building' ELSE 'live' END, $3, $5
     WHERE NOT EXISTS (
        SELECT 1 FROM projection_builds
         WHERE name = $1 OR (handler = $2 AND state IN ('building', 'taking')))
        ON CONFLICT DO NOTHING
    RETURNING name, state
)
INSERT INTO live_collections (collection, build)
SELECT n.collection, begun.name FROM begun CROSS JOIN unnest($4::text[]) AS n (collection) WHERE begun.state = 'live'
    ON CONFLICT (collection) DO UPDATE SET build = excluded.build";

const TURN: &str = "
UPDATE projection_builds SET state = $3 WHERE name = $1 AND state = $2 AND state <> 'live' RETURNING name";

// Statements of one transaction: each sees what the ones before it wrote. The rows of the projection's builds are
// locked first: of two processes the second one finds nothing to do.
const LOCK: &str = "SELECT name FROM projection_builds WHERE handler = $1 ORDER BY name FOR UPDATE";
const RETIRE: &str = "
UPDATE projection_builds SET state = 'dropping'
 WHERE handler = $2 AND state = 'live'
   AND EXISTS (SELECT 1 FROM projection_builds WHERE name = $1 AND state = 'taking')
   AND NOT EXISTS (
    SELECT 1
      FROM unnest($3::text[], $4::text[]) AS s (old, new)
      JOIN consumer_checkpoints o ON o.consumer = s.old
      LEFT JOIN consumer_checkpoints n ON n.consumer = s.new AND n.partition = o.partition
     WHERE o.position > coalesce(n.position, 0))";
const PROMOTE: &str = "
UPDATE projection_builds SET state = 'live'
 WHERE name = $1 AND state = 'taking'
   AND NOT EXISTS (SELECT 1 FROM projection_builds WHERE handler = $2 AND state = 'live')
RETURNING name";
const HIDE: &str = "
DELETE FROM live_collections WHERE build IN (SELECT name FROM projection_builds WHERE state = 'dropping')";
const SHOW: &str = "
INSERT INTO live_collections (collection, build) SELECT n.collection, $1 FROM unnest($2::text[]) AS n (collection)
    ON CONFLICT (collection) DO UPDATE SET build = excluded.build";

// Whether it is kept is asked in the statement that deletes: what is begun under the name later is not seen in either.
const DROP_SOME: &str = "
WITH kept AS MATERIALIZED (
    SELECT 1 FROM projection_builds WHERE name = $1 AND state <> 'dropping'
), dropped_documents AS (
    DELETE FROM documents
     WHERE ctid IN (SELECT ctid FROM documents WHERE build = $1 AND NOT EXISTS (SELECT 1 FROM kept) LIMIT $3)
    RETURNING 1
), dropped_nodes AS (
    DELETE FROM graph_nodes
     WHERE ctid IN (SELECT ctid FROM graph_nodes WHERE build = $1 AND NOT EXISTS (SELECT 1 FROM kept) LIMIT $3)
    RETURNING 1
), dropped_edges AS (
    DELETE FROM graph_edges
     WHERE ctid IN (SELECT ctid FROM graph_edges WHERE build = $1 AND NOT EXISTS (SELECT 1 FROM kept) LIMIT $3)
    RETURNING 1
), dropped_sets AS (
    DELETE FROM graph_edge_sets
     WHERE ctid IN (SELECT ctid FROM graph_edge_sets WHERE build = $1 AND NOT EXISTS (SELECT 1 FROM kept) LIMIT $3)
    RETURNING 1
), dropped_claims AS (
    DELETE FROM processed_events
     WHERE ctid IN (SELECT ctid FROM processed_events
                     WHERE handler = ANY ($2::text[]) AND NOT EXISTS (SELECT 1 FROM kept) LIMIT $3)
    RETURNING 1
), dropped_versions AS (
    DELETE FROM aggregate_versions
     WHERE ctid IN (SELECT ctid FROM aggregate_versions
                     WHERE handler = ANY ($2::text[]) AND NOT EXISTS (SELECT 1 FROM kept) LIMIT $3)
    RETURNING 1
), dropped_checkpoints AS (
    DELETE FROM consumer_checkpoints WHERE consumer = ANY ($2::text[]) AND NOT EXISTS (SELECT 1 FROM kept)
)
SELECT 1 FROM kept UNION SELECT 1 FROM dropped_documents UNION SELECT 1 FROM dropped_nodes
UNION SELECT 1 FROM dropped_edges UNION SELECT 1 FROM dropped_sets UNION SELECT 1 FROM dropped_claims
UNION SELECT 1 FROM dropped_versions";

const FORGET: &str = "DELETE FROM projection_builds WHERE name = $1 AND state = 'dropping'";

#[async_trait]
impl Builds for Database {
    async fn builds(&self) -> Result<Vec<Build>> {
        let found = self.inner.pool.read(BUILDS, Arguments::default()).await?;
        let build =
            |row: &PgRow| rows::build(get(row, 0)?, get(row, 1)?, get(row, 2)?, unsigned(row, 3)?, uuid(row, 4)?);
        found.iter().map(build).collect()
    }

    async fn begin(&self, wanted: Wanted<'_>, id: Uuid) -> Result<()> {
        let arguments = Arguments::default()
            .with(wanted.name)
            .with(wanted.handler)
            .with(int(wanted.asked))
            .with(wanted.collections)
            .with(Id(id));
        self.inner.pool.write(BEGIN, arguments).await?;
        Ok(())
    }

    async fn turn(&self, name: &str, from: State, to: State) -> Result<bool> {
        let arguments = Arguments::default().with(name).with(from.as_str()).with(to.as_str());
        Ok(!self.inner.pool.write(TURN, arguments).await?.is_empty())
    }

    async fn take_over(&self, wanted: Wanted<'_>, successors: &[(String, String)]) -> Result<bool> {
        let (old, new): (Vec<&str>, Vec<&str>) = successors.iter().map(|(old, new)| (&**old, &**new)).unzip();
        let mut session = self.inner.pool.session().await?;
        session.run("BEGIN", Arguments::default()).await?;
        session.run(LOCK, Arguments::default().with(wanted.handler)).await?;
        let both = || Arguments::default().with(wanted.name).with(wanted.handler);
        session.run(RETIRE, both().with(old).with(new)).await?;
        let promoted = !session.run(PROMOTE, both()).await?.is_empty();
        if promoted {
            session.run(HIDE, Arguments::default()).await?;
            session.run(SHOW, Arguments::default().with(wanted.name).with(wanted.collections)).await?;
        }
        session.run("COMMIT", Arguments::default()).await?;
        session.finish();
        Ok(promoted)
    }

    async fn drop_some(&self, name: &str, consumers: &[String], count: usize) -> Result<bool> {
        let arguments = Arguments::default().with(name).with(consumers).with(limit(count));
        if !self.inner.pool.write(DROP_SOME, arguments).await?.is_empty() {
            return Ok(false);
        }
        self.inner.pool.write(FORGET, Arguments::default().with(name)).await?;
        Ok(true)
    }
}
