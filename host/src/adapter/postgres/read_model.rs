//! The read model's writes. A batch is one statement with its claims and its checkpoint (I6, I7). It is written in the
//! hope that every claim is ours and every row free or our own, which constraints check at no cost; only when one
//! refuses is it looked up which, in a transaction that then writes the rest.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::{Arguments, Session};
use super::registry::attempt_column;
use super::values::{Id, Time};
use super::{Database, WHAT, failed, get, search, terms, unsigned, uuid};
use crate::adapter::rows::{aggregate, corrupt, int, left, ours};
use crate::domain::{Aggregate, Partition, Position};
use crate::port::read_model::builds::Begun;
use crate::port::read_model::plan::{Plan, belongs, document_words, edges_words, node_words};
use crate::port::read_model::{AppliedBatch, Batch, Document, DocumentKey, Edge, Node, Query, ReadModel};
use crate::port::registry::Finished;
use crate::port::{Error, Result};

/// Looks for what refused a batch before it counts as unavailable: each finds what the others wrote meanwhile.
const LOOKS_MAX: u32 = 4;

// The build's row is locked, so that it is not deleted before this is over, and then begun anew under the same name.
// A row of another owner: its owner would become NULL, which the column refuses. So would that of a set of edges that
// another transaction wrote since this statement began: the edges it gave it are not seen here, and would stay. Edges
// follow the sets that were really written. `NOT IN … IS FALSE` is IN as a hash of the rows, whatever their number.
const WRITE: &str = "
WITH asked AS MATERIALIZED (
    SELECT $1 AS handler, a.* FROM unnest($2::uuid[], $3::integer[]) AS a (event_id, attempt)
), mine AS (
    SELECT p.handler, p.event_id, p.aggregate_id, p.sequence_number
      FROM asked a JOIN processed_events p ON p.handler = a.handler AND p.event_id = a.event_id
     WHERE p.status = 'processing' AND p.owner = $4 AND p.attempt_count = a.attempt
     ORDER BY p.event_id FOR UPDATE OF p
), done AS (
    UPDATE processed_events p SET status = 'done', processed_at = $5, last_error = NULL
      FROM mine WHERE p.handler = mine.handler AND p.event_id = mine.event_id
    RETURNING 1
), guarded AS (
    INSERT INTO guard (missing_claims) SELECT 1 WHERE (SELECT count(*) FROM done) <> cardinality($2::uuid[])
), kept AS MATERIALIZED (
    SELECT 1 FROM projection_builds WHERE name = $6 AND id = $33 AND state <> 'dropping' FOR KEY SHARE
), held AS (
    INSERT INTO guard (missing_build) SELECT 1 WHERE $33::uuid IS NOT NULL AND NOT EXISTS (SELECT 1 FROM kept)
), versions AS (
    INSERT INTO aggregate_versions AS v (handler, aggregate_id, last_sequence, updated_at)
    SELECT $1, aggregate_id, max(sequence_number), $5 FROM mine GROUP BY aggregate_id ORDER BY aggregate_id
        ON CONFLICT (handler, aggregate_id) DO UPDATE
       SET last_sequence = excluded.last_sequence, updated_at = excluded.updated_at
     WHERE v.last_sequence < excluded.last_sequence
), written AS (
    INSERT INTO documents AS d (build, collection, id, owner_type, owner_id, version, terms, body)
    SELECT $6, n.collection, n.id, n.owner_type, n.owner_id, n.version, string_to_array(n.terms, E'\\n'), n.body::json
      FROM unnest($7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::text[], $13::text[])
           AS n (collection, id, owner_type, owner_id, version, terms, body)
        ON CONFLICT (build, collection, id) DO UPDATE
       SET owner_id = CASE WHEN d.owner_type = excluded.owner_type AND d.owner_id = excluded.owner_id
                           THEN d.owner_id END,
           version = excluded.version, terms = excluded.terms, body = excluded.body
     WHERE d.version < excluded.version OR d.owner_type <> excluded.owner_type OR d.owner_id <> excluded.owner_id
), nodes AS (
    INSERT INTO graph_nodes AS g (build, kind, id, owner_type, owner_id, version, present)
    SELECT $6, n.* FROM unnest($14::text[], $15::text[], $16::text[], $17::text[], $18::bigint[], $19::boolean[]) n
        ON CONFLICT (build, kind, id) DO UPDATE
       SET owner_id = CASE WHEN g.owner_type = excluded.owner_type AND g.owner_id = excluded.owner_id
                           THEN g.owner_id END,
           version = excluded.version, present = excluded.present
     WHERE g.version < excluded.version OR g.owner_type <> excluded.owner_type OR g.owner_id <> excluded.owner_id
), sets AS (
    INSERT INTO graph_edge_sets AS s (build, source_kind, source_id, predicate, owner_type, owner_id, version)
    SELECT $6, n.* FROM unnest($20::text[], $21::text[], $22::text[], $23::text[], $24::text[], $25::bigint[]) n
        ON CONFLICT (build, source_kind, source_id, predicate) DO UPDATE
       SET owner_id = CASE WHEN s.owner_type = excluded.owner_type AND s.owner_id = excluded.owner_id
                            AND s.version = (SELECT seen.version FROM graph_edge_sets seen
                                              WHERE seen.build = excluded.build
                                                AND seen.source_kind = excluded.source_kind
                                                AND seen.source_id = excluded.source_id
                                                AND seen.predicate = excluded.predicate)
                           THEN s.owner_id END,
           version = excluded.version
     WHERE s.version < excluded.version OR s.owner_type <> excluded.owner_type OR s.owner_id <> excluded.owner_id
    RETURNING s.build, s.source_kind, s.source_id, s.predicate
), gone AS (
    DELETE FROM graph_edges e USING sets s
     WHERE e.build = s.build AND e.source_kind = s.source_kind AND e.source_id = s.source_id
       AND e.predicate = s.predicate
       AND (e.source_kind, e.source_id, e.predicate, e.target_kind, e.target_id) NOT IN (
            SELECT * FROM unnest($26::text[], $27::text[], $28::text[], $29::text[], $30::text[]))
), added AS (
    INSERT INTO graph_edges (build, source_kind, source_id, predicate, target_kind, target_id)
    SELECT $6, n.*
      FROM unnest($26::text[], $27::text[], $28::text[], $29::text[], $30::text[])
           AS n (source_kind, source_id, predicate, target_kind, target_id)
     WHERE ((n.source_kind, n.source_id, n.predicate) NOT IN (
            SELECT source_kind, source_id, predicate FROM sets)) IS FALSE
        ON CONFLICT DO NOTHING
)
INSERT INTO consumer_checkpoints AS c SELECT $1, $31, $32 WHERE $31::integer IS NOT NULL
    ON CONFLICT (consumer, partition) DO UPDATE
   SET position = excluded.position WHERE c.position < excluded.position";

// Those that are ours stay so until the end of the transaction.
const FIND_KEPT_CLAIMS: &str = "
WITH asked AS MATERIALIZED (
    SELECT $1 AS handler, a.* FROM unnest($2::uuid[], $3::integer[]) AS a (event_id, attempt)
)
SELECT p.event_id
  FROM asked a JOIN processed_events p ON p.handler = a.handler AND p.event_id = a.event_id
 WHERE p.status = 'processing' AND p.owner = $4 AND p.attempt_count = a.attempt
 ORDER BY p.event_id FOR UPDATE OF p";

const FIND_FOREIGN: &str = "
WITH documents_asked AS MATERIALIZED (
    SELECT $1 AS build, a.* FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])
           WITH ORDINALITY AS a (collection, id, owner_type, owner_id, slot)
), nodes_asked AS MATERIALIZED (
    SELECT $1 AS build, a.* FROM unnest($6::text[], $7::text[], $8::text[], $9::text[])
           WITH ORDINALITY AS a (kind, id, owner_type, owner_id, slot)
), sets_asked AS MATERIALIZED (
    SELECT $1 AS build, a.* FROM unnest($10::text[], $11::text[], $12::text[], $13::text[], $14::text[])
           WITH ORDINALITY AS a (kind, id, predicate, owner_type, owner_id, slot)
)
SELECT 0, a.slot, d.owner_type, d.owner_id
  FROM documents_asked a JOIN documents d ON d.build = a.build AND d.collection = a.collection AND d.id = a.id
 WHERE d.owner_type <> a.owner_type OR d.owner_id <> a.owner_id
UNION ALL
SELECT 1, a.slot, n.owner_type, n.owner_id
  FROM nodes_asked a JOIN graph_nodes n ON n.build = a.build AND n.kind = a.kind AND n.id = a.id
 WHERE n.owner_type <> a.owner_type OR n.owner_id <> a.owner_id
UNION ALL
SELECT 2, a.slot, s.owner_type, s.owner_id
  FROM sets_asked a
  JOIN graph_edge_sets s
    ON s.build = a.build AND s.source_kind = a.kind AND s.source_id = a.id AND s.predicate = a.predicate
 WHERE s.owner_type <> a.owner_type OR s.owner_id <> a.owner_id";

const CHECKPOINTS: &str = "SELECT consumer, partition, position FROM consumer_checkpoints ORDER BY consumer, partition";

const SET_CHECKPOINT: &str = "
WITH kept AS MATERIALIZED (
    SELECT 1 FROM projection_builds WHERE name = $4 AND id = $5 AND state <> 'dropping' FOR KEY SHARE
)
INSERT INTO consumer_checkpoints AS c SELECT $1, $2, $3 WHERE $4::text IS NULL OR EXISTS (SELECT 1 FROM kept)
    ON CONFLICT (consumer, partition) DO UPDATE
   SET position = excluded.position WHERE c.position < excluded.position";

/// Statements that run for every command, read or write, for the test of their plans.
#[cfg(test)]
pub(super) const BUSY_SQL: &[&str] = &[WRITE, FIND_KEPT_CLAIMS, FIND_FOREIGN, SET_CHECKPOINT];

#[async_trait]
impl ReadModel for Database {
    async fn apply(&self, batch: Batch<'_>) -> Result<AppliedBatch> {
        let none = HashSet::new();
        let plan = Plan::of(batch.events.iter().enumerate());
        if plan.foreign.is_empty() {
            let write = write_arguments(&batch, &plan, &ours(&batch, &none), batch.checkpoint);
            match self.inner.pool.try_write(WRITE, write).await? {
                Ok(_) => return Ok(AppliedBatch::default()),
                Err(error) if is_gone(&error) => return Ok(AppliedBatch { gone: true, ..AppliedBatch::default() }),
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        for _ in 0..LOOKS_MAX {
            if let Some(applied) = self.apply_rest(&batch).await? {
                return Ok(applied);
            }
        }
        let reason = "others write the same rows again and again".to_owned();
        Err(Error::Unavailable { what: WHAT, reason })
    }

    async fn documents(&self, build: Option<&str>, keys: &[DocumentKey]) -> Result<Vec<Option<Document>>> {
        search::documents(&self.inner.pool, build, keys).await
    }

    async fn search(&self, query: &Query) -> Result<Vec<Document>> {
        search::search(&self.inner.pool, query).await
    }

    async fn edges(
        &self,
        build: Option<&str>,
        node: &Node,
        outgoing: bool,
        after: Option<&Edge>,
        limit: usize,
    ) -> Result<Vec<Edge>> {
        search::edges(&self.inner.pool, build, node, outgoing, after, limit).await
    }

    async fn checkpoints(&self) -> Result<Vec<(String, Partition, Position)>> {
        let rows = self.inner.pool.read(CHECKPOINTS, Arguments::default()).await?;
        let checkpoint = |row: &PgRow| {
            let partition =
                u16::try_from(get::<i32>(row, 1)?).map_err(|_| corrupt("a partition is no small number"))?;
            Ok((get(row, 0)?, Partition(partition), Position(unsigned(row, 2)?)))
        };
        rows.iter().map(checkpoint).collect()
    }

    async fn set_checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
        position: Position,
        build: Option<&Begun>,
    ) -> Result<()> {
        let arguments = Arguments::default()
            .with(consumer)
            .with(i32::from(partition.0))
            .with(int(position.0))
            .with(build.map(|build| build.name.as_str()))
            .with(build.map(|build| Id(build.id)));
        self.inner.pool.write(SET_CHECKPOINT, arguments).await?;
        Ok(())
    }
}

impl Database {
    /// Finds what refuses the batch and writes the rest; `None` when something else came to refuse it meanwhile.
    async fn apply_rest(&self, batch: &Batch<'_>) -> Result<Option<AppliedBatch>> {
        let none = HashSet::new();
        let mut session = self.inner.pool.session().await?;
        session.run("BEGIN", Arguments::default()).await?;
        let find = claim_arguments(Arguments::default().with(batch.consumer), &ours(batch, &none), batch);
        let kept = session.run(FIND_KEPT_CLAIMS, find).await?;
        let kept = kept.iter().map(|row| uuid(row, 0)).collect::<Result<HashSet<Uuid>>>()?;
        let lost: HashSet<Uuid> = batch.finished.iter().map(|f| f.event_id).filter(|id| !kept.contains(id)).collect();
        let foreign = find_foreign(&mut session, batch, &lost).await?;
        if foreign.is_empty() {
            let plan = Plan::of(left(&batch.events, &lost, &HashSet::new()));
            let checkpoint = batch.checkpoint.filter(|_| lost.is_empty());
            let write = write_arguments(batch, &plan, &ours(batch, &lost), checkpoint);
            match session.send(WRITE, write).await {
                Ok(_) => {}
                Err(error) if is_gone(&error) => {
                    return Ok(Some(AppliedBatch { gone: true, ..AppliedBatch::default() }));
                }
                Err(error) if is_refusal(&error) => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
        session.run("COMMIT", Arguments::default()).await?;
        session.finish();
        let fenced = batch.finished.iter().map(|f| f.event_id).filter(|id| lost.contains(id)).collect();
        Ok(Some(AppliedBatch { fenced, foreign, gone: false }))
    }
}

fn is_gone(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.constraint()) == Some("build_is_kept")
}

fn is_refusal(error: &sqlx::Error) -> bool {
    const NOT_NULL_VIOLATION: &str = "23502";
    let Some(error) = error.as_database_error() else { return false };
    error.constraint() == Some("claims_are_ours") || error.code().as_deref() == Some(NOT_NULL_VIOLATION)
}

/// Events that write to rows of others. An event found so claims nothing for itself: the next round is without it.
async fn find_foreign(
    session: &mut Session<'_>,
    batch: &Batch<'_>,
    lost: &HashSet<Uuid>,
) -> Result<Vec<(usize, String)>> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut known = HashSet::new();
    loop {
        let plan = Plan::of(left(&batch.events, lost, &known));
        let arguments = Arguments::default()
            .with(batch.build)
            .with(plan.documents.keys().map(|key| key.collection.as_str()).collect::<Vec<_>>())
            .with(plan.documents.keys().map(|key| key.id.as_str()).collect::<Vec<_>>());
        let arguments = owner_arguments(arguments, plan.documents.values().map(|write| write.owner))
            .with(plan.nodes.keys().map(|node| node.kind.as_str()).collect::<Vec<_>>())
            .with(plan.nodes.keys().map(|node| node.id.as_str()).collect::<Vec<_>>());
        let arguments = owner_arguments(arguments, plan.nodes.values().map(|write| write.owner));
        let arguments = owner_arguments(set_arguments(arguments, &plan), plan.edges.values().map(|write| write.owner));
        let rows = session.run(FIND_FOREIGN, arguments).await?;
        for row in &rows {
            // Ordinality counts from one.
            let slot = usize::try_from(unsigned(row, 1)?).unwrap_or_default().wrapping_sub(1);
            let owner = aggregate(get(row, 2)?, get(row, 3)?)?;
            let (event, words) = match get::<i32>(row, 0)? {
                0 => plan.documents.iter().nth(slot).map(|(key, write)| (write.event, document_words(key))),
                1 => plan.nodes.iter().nth(slot).map(|(node, write)| (write.event, node_words(node))),
                _ => plan.edges.iter().nth(slot).map(|((node, name), write)| (write.event, edges_words(node, name))),
            }
            .ok_or_else(|| corrupt("a row answers no question"))?;
            if known.insert(event) {
                found.push((event, belongs(&words, &owner)));
            }
        }
        if rows.is_empty() {
            found.extend(plan.foreign.into_iter().filter(|(event, _)| known.insert(*event)));
            found.sort();
            return Ok(found);
        }
    }
}

fn claim_arguments(arguments: Arguments, finished: &[&Finished], batch: &Batch<'_>) -> Arguments {
    arguments
        .with(finished.iter().map(|f| Id(f.event_id)).collect::<Vec<_>>())
        .with(finished.iter().map(|f| attempt_column(f.attempt)).collect::<Vec<_>>())
        .with(batch.owner.to_string())
}

fn owner_arguments<'a>(arguments: Arguments, owners: impl Iterator<Item = &'a Aggregate> + Clone) -> Arguments {
    arguments
        .with(owners.clone().map(|owner| owner.kind.as_str()).collect::<Vec<_>>())
        .with(owners.map(|owner| owner.id.as_str()).collect::<Vec<_>>())
}

fn set_arguments(arguments: Arguments, plan: &Plan<'_>) -> Arguments {
    arguments
        .with(plan.edges.keys().map(|(source, _)| source.kind.as_str()).collect::<Vec<_>>())
        .with(plan.edges.keys().map(|(source, _)| source.id.as_str()).collect::<Vec<_>>())
        .with(plan.edges.keys().map(|(_, predicate)| *predicate).collect::<Vec<_>>())
}

fn write_arguments(
    batch: &Batch<'_>,
    plan: &Plan<'_>,
    finished: &[&Finished],
    checkpoint: Option<(Partition, Position)>,
) -> Arguments {
    let (documents, nodes, sets) = (&plan.documents, &plan.nodes, &plan.edges);
    let arguments = claim_arguments(Arguments::default().with(batch.consumer), finished, batch)
        .with(Time(batch.now))
        .with(batch.build)
        .with(documents.keys().map(|key| key.collection.as_str()).collect::<Vec<_>>())
        .with(documents.keys().map(|key| key.id.as_str()).collect::<Vec<_>>());
    let arguments = owner_arguments(arguments, documents.values().map(|write| write.owner))
        .with(documents.values().map(|write| int(write.version)).collect::<Vec<_>>())
        .with(
            documents.values().map(|write| write.value.map(|body| terms::of_document(body.get()))).collect::<Vec<_>>(),
        )
        .with(documents.values().map(|write| write.value.map(|body| body.get())).collect::<Vec<_>>())
        .with(nodes.keys().map(|node| node.kind.as_str()).collect::<Vec<_>>())
        .with(nodes.keys().map(|node| node.id.as_str()).collect::<Vec<_>>());
    let arguments = owner_arguments(arguments, nodes.values().map(|write| write.owner))
        .with(nodes.values().map(|write| int(write.version)).collect::<Vec<_>>())
        .with(nodes.values().map(|write| write.value).collect::<Vec<_>>());
    let arguments = owner_arguments(set_arguments(arguments, plan), sets.values().map(|write| write.owner))
        .with(sets.values().map(|write| int(write.version)).collect::<Vec<_>>());
    let mut edges: Vec<[&str; 5]> = sets
        .iter()
        .flat_map(|((from, name), write)| {
            write.value.iter().map(move |to| [from.kind.as_str(), from.id.as_str(), *name, &to.kind, &to.id])
        })
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let arguments = (0..5)
        .fold(arguments, |arguments, column| arguments.with(edges.iter().map(|edge| edge[column]).collect::<Vec<_>>()));
    arguments
        .with(checkpoint.map(|(partition, _)| i32::from(partition.0)))
        .with(checkpoint.map(|(_, position)| int(position.0)))
        .with(batch.begun.map(Id))
}
