//! The read model's writes. A batch is one transaction with its claims and its checkpoint (I6, I7). It is written in
//! the hope that every claim is ours and every row free or our own, which constraints check at no cost; only when one
//! refuses is it looked up which, in a second transaction that then writes the rest.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::connection::{Arguments, Turn};
use super::ledger::Written;
use super::registry::{rows_arguments, write_rows};
use super::{Database, corrupt, failed, get, int, json, search};
use crate::adapter::rows::{aggregate, left, ours};
use crate::domain::{Partition, Position};
use crate::port::Result;
use crate::port::read_model::builds::Begun;
use crate::port::read_model::plan::{Plan, belongs, document_words, edges_words, node_words};
use crate::port::read_model::{AppliedBatch, Batch, Document, DocumentKey, Edge, Node, Query, ReadModel};

// A row of another owner: its owner would become NULL, which the column refuses. Edges are replaced where their set has
// an older version or none yet, so before the sets get theirs; those that stay are not touched.
macro_rules! write {
    () => {
        concat!(
            "
INSERT INTO guard (missing_build) SELECT 1
 WHERE $12 IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM projection_builds WHERE name = $3 AND id = $12 AND state <> 'dropping');",
            write_rows!(),
            "
INSERT INTO documents (build, collection, id, owner_type, owner_id, version, text_is_stale, body)
SELECT $3, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, 1,
       CAST(substr($8, value ->> 5, value ->> 6) AS TEXT)
  FROM jsonb_each($4)
 WHERE true
    ON CONFLICT (build, collection, id) DO UPDATE
   SET owner_id = iif(owner_type = excluded.owner_type AND owner_id = excluded.owner_id, owner_id, NULL),
       version = excluded.version, text_is_stale = 1, body = excluded.body
 WHERE version < excluded.version OR owner_type <> excluded.owner_type OR owner_id <> excluded.owner_id;
INSERT INTO graph_nodes (build, kind, id, owner_type, owner_id, version, present)
SELECT $3, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each($5)
 WHERE true
    ON CONFLICT (build, kind, id) DO UPDATE
   SET owner_id = iif(owner_type = excluded.owner_type AND owner_id = excluded.owner_id, owner_id, NULL),
       version = excluded.version, present = excluded.present
 WHERE version < excluded.version OR owner_type <> excluded.owner_type OR owner_id <> excluded.owner_id;
DELETE FROM graph_edges
 WHERE (build, source_kind, source_id, predicate) IN (
    SELECT s.build, s.source_kind, s.source_id, s.predicate
      FROM jsonb_each($6) j CROSS JOIN graph_edge_sets s
     WHERE s.build = $3 AND s.source_kind = j.value ->> 0 AND s.source_id = j.value ->> 1
       AND s.predicate = j.value ->> 2 AND s.version < j.value ->> 5)
   AND (source_kind, source_id, predicate, target_kind, target_id) NOT IN (
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM jsonb_each($7));
INSERT OR IGNORE INTO graph_edges
SELECT $3, j.value ->> 0, j.value ->> 1, j.value ->> 2, j.value ->> 3, j.value ->> 4
  FROM jsonb_each($7) j
 WHERE NOT EXISTS (
    SELECT 1 FROM graph_edge_sets s
     WHERE s.build = $3 AND s.source_kind = j.value ->> 0 AND s.source_id = j.value ->> 1
       AND s.predicate = j.value ->> 2 AND s.version >= j.value ->> 5);
INSERT INTO graph_edge_sets (build, source_kind, source_id, predicate, owner_type, owner_id, version)
SELECT $3, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each($6)
 WHERE true
    ON CONFLICT (build, source_kind, source_id, predicate) DO UPDATE
   SET owner_id = iif(owner_type = excluded.owner_type AND owner_id = excluded.owner_id, owner_id, NULL),
       version = excluded.version
 WHERE version < excluded.version OR owner_type <> excluded.owner_type OR owner_id <> excluded.owner_id;
INSERT INTO consumer_checkpoints SELECT $9, $10, $11 WHERE $10 IS NOT NULL
    ON CONFLICT (consumer, partition) DO UPDATE
   SET position = excluded.position WHERE position < excluded.position;
COMMIT"
        )
    };
}

const WRITE: &str = concat!("BEGIN IMMEDIATE;", write!());
const WRITE_REST: &str = write!();

const BEGIN_AND_FIND_DONE: &str = "
BEGIN IMMEDIATE;
SELECT event_id FROM processed_events
 WHERE handler = $1 AND event_id IN (SELECT value FROM json_each($2)) AND status = 'done'";

const FIND_FOREIGN: &str = "
SELECT 0, j.key, d.owner_type, d.owner_id FROM jsonb_each($2) j CROSS JOIN documents d
 WHERE d.build = $1 AND d.collection = j.value ->> 0 AND d.id = j.value ->> 1
   AND (d.owner_type <> j.value ->> 2 OR d.owner_id <> j.value ->> 3)
UNION ALL
SELECT 1, j.key, n.owner_type, n.owner_id FROM jsonb_each($3) j CROSS JOIN graph_nodes n
 WHERE n.build = $1 AND n.kind = j.value ->> 0 AND n.id = j.value ->> 1
   AND (n.owner_type <> j.value ->> 2 OR n.owner_id <> j.value ->> 3)
UNION ALL
SELECT 2, j.key, s.owner_type, s.owner_id FROM jsonb_each($4) j CROSS JOIN graph_edge_sets s
 WHERE s.build = $1 AND s.source_kind = j.value ->> 0 AND s.source_id = j.value ->> 1 AND s.predicate = j.value ->> 2
   AND (s.owner_type <> j.value ->> 3 OR s.owner_id <> j.value ->> 4)";

const CHECKPOINTS: &str = "SELECT consumer, partition, position FROM consumer_checkpoints ORDER BY consumer, partition";

/// Strings of statements that run for every command, read or write, for the test of their plans.
#[cfg(test)]
pub(super) const BUSY_SQL: &[&str] = &[WRITE, BEGIN_AND_FIND_DONE, FIND_FOREIGN];

#[async_trait]
impl ReadModel for Database {
    async fn apply(&self, batch: Batch<'_>) -> Result<AppliedBatch> {
        let plan = Plan::of(batch.events.iter().enumerate());
        let (ending, mut lost) = self.ending(&batch, &HashSet::new());
        self.make_room().await?;
        // The checkpoint may pass what was given up: after a crash its row alone says that it has no effect (I7).
        let has_given_up = self.inner.ledger.lock().has_given_up(batch.consumer);
        if has_given_up {
            self.write_claims(false, None).await?;
        }
        if plan.foreign.is_empty() && lost.is_empty() {
            match self.inner.writer.run(WRITE, arguments(&batch, &plan, &ending, batch.checkpoint)).await {
                Ok(_) => {
                    self.ended(&batch, &lost);
                    return Ok(AppliedBatch::default());
                }
                Err(error) if is_gone(&error) => return Ok(AppliedBatch { gone: true, ..AppliedBatch::default() }),
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let mut turn = self.inner.writer.turn().await.map_err(failed)?;
        let ids: Vec<&Uuid> = batch.finished.iter().map(|event| &event.event_id).collect();
        let find = Arguments::default().with(batch.consumer.to_owned()).with(json(&ids));
        let rows = turn.run(BEGIN_AND_FIND_DONE, find).await.map_err(failed)?;
        let id = |row| get::<&str>(row, 0)?.parse::<Uuid>().map_err(|_| corrupt("an event id is no UUID"));
        let done = rows.iter().map(id).collect::<Result<HashSet<_>>>()?;
        lost.extend(&done);
        let (ending, gone) = self.ending(&batch, &lost);
        lost.extend(gone);
        let foreign = find_foreign(&mut turn, &batch, &lost).await?;
        if foreign.is_empty() {
            let plan = Plan::of(left(&batch.events, &lost, &HashSet::new()));
            let checkpoint = if lost.is_empty() { batch.checkpoint } else { None };
            match turn.run(WRITE_REST, arguments(&batch, &plan, &ending, checkpoint)).await {
                Ok(_) => {}
                Err(error) if is_gone(&error) => return Ok(AppliedBatch { gone: true, ..AppliedBatch::default() }),
                Err(error) => return Err(failed(error)),
            }
            self.ended(&batch, &lost);
        } else {
            turn.run("ROLLBACK", Arguments::default()).await.map_err(failed)?;
        }
        turn.finish();
        self.forget(|ledger| ledger.done_already(batch.consumer, &done)).await;
        let fenced = batch.finished.iter().map(|f| f.event_id).filter(|id| lost.contains(id)).collect();
        Ok(AppliedBatch { fenced, foreign, gone: false })
    }

    async fn documents(&self, build: Option<&str>, keys: &[DocumentKey]) -> Result<Vec<Option<Document>>> {
        search::documents(self, build, keys).await
    }

    async fn search(&self, query: &Query) -> Result<Vec<Document>> {
        search::search(self, query).await
    }

    async fn edges(
        &self,
        build: Option<&str>,
        node: &Node,
        outgoing: bool,
        after: Option<&Edge>,
        limit: usize,
    ) -> Result<Vec<Edge>> {
        search::edges(self, build, node, outgoing, after, limit).await
    }

    async fn checkpoints(&self) -> Result<Vec<(String, Partition, Position)>> {
        let rows = self.inner.readers.run(CHECKPOINTS, Arguments::default()).await.map_err(failed)?;
        let checkpoint = |row: &SqliteRow| {
            let partition =
                u16::try_from(get::<i64>(row, 1)?).map_err(|_| corrupt("a partition is no small number"))?;
            Ok((get(row, 0)?, Partition(partition), Position(super::unsigned(row, 2)?)))
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
        self.write_claims(false, Some((consumer, partition, position, build))).await
    }
}

impl Database {
    /// The rows of a batch's claims as they will be, without those that are lost; and which of them are lost as well.
    fn ending(&self, batch: &Batch<'_>, lost: &HashSet<Uuid>) -> (Vec<Written>, HashSet<Uuid>) {
        let finished = ours(batch, lost);
        self.inner.ledger.lock().ending(batch.consumer, batch.owner, &finished, batch.now)
    }

    /// The effects of a batch are written. The versions of its aggregates follow with the next checkpoint, many at
    /// once; an effect that a crash makes come again before that changes nothing (decision 0009).
    fn ended(&self, batch: &Batch<'_>, lost: &HashSet<Uuid>) {
        let ours = batch.finished.iter().filter(|event| !lost.contains(&event.event_id));
        self.inner.ledger.lock().done(batch.consumer, batch.owner, ours, batch.now);
    }
}

fn is_gone(error: &sqlx::Error) -> bool {
    error.to_string().contains("build_is_kept")
}

fn is_refusal(error: &sqlx::Error) -> bool {
    let words = error.to_string();
    words.contains("claims_are_ours") || words.contains(".owner_id")
}

/// Events that write to rows of others. An event found so claims nothing for itself: the next round is without it.
async fn find_foreign(turn: &mut Turn<'_>, batch: &Batch<'_>, lost: &HashSet<Uuid>) -> Result<Vec<(usize, String)>> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut known = HashSet::new();
    loop {
        let plan = Plan::of(left(&batch.events, lost, &known));
        let documents: Vec<_> = plan.documents.iter().collect();
        let nodes: Vec<_> = plan.nodes.iter().collect();
        let edges: Vec<_> = plan.edges.iter().collect();
        let document_rows: Vec<_> = documents
            .iter()
            .map(|(key, write)| (&key.collection, &key.id, write.owner.kind.as_str(), write.owner.id.as_str()))
            .collect();
        let node_rows: Vec<_> = nodes
            .iter()
            .map(|(node, write)| (&node.kind, &node.id, write.owner.kind.as_str(), write.owner.id.as_str()))
            .collect();
        let edge_rows: Vec<_> = edges
            .iter()
            .map(|((source, predicate), write)| {
                (&source.kind, &source.id, predicate, write.owner.kind.as_str(), write.owner.id.as_str())
            })
            .collect();
        let arguments = Arguments::default()
            .with(batch.build.to_owned())
            .with(json(&document_rows))
            .with(json(&node_rows))
            .with(json(&edge_rows));
        let rows = turn.run(FIND_FOREIGN, arguments).await.map_err(failed)?;
        for row in &rows {
            let slot = usize::try_from(get::<i64>(row, 1)?).map_err(|_| corrupt("a row answers no question"))?;
            let owner = aggregate(get(row, 2)?, get(row, 3)?)?;
            let (event, words) = match get::<i64>(row, 0)? {
                0 => documents.get(slot).map(|(key, write)| (write.event, document_words(key))),
                1 => nodes.get(slot).map(|(node, write)| (write.event, node_words(node))),
                _ => edges.get(slot).map(|((source, name), write)| (write.event, edges_words(source, name))),
            }
            .ok_or_else(|| corrupt("a row answers no question"))?;
            if known.insert(event) {
                found.push((event, belongs(&words, &owner)));
            }
        }
        if rows.is_empty() {
            for (event, words) in plan.foreign {
                if known.insert(event) {
                    found.push((event, words));
                }
            }
            found.sort();
            return Ok(found);
        }
    }
}

fn arguments(
    batch: &Batch<'_>,
    plan: &Plan<'_>,
    ending: &[Written],
    checkpoint: Option<(Partition, Position)>,
) -> Arguments {
    // Bodies go beside the rows, which name the place of theirs: they need not be quoted, parsed and unquoted.
    let mut bodies: Vec<u8> = Vec::new();
    let documents: Vec<_> = plan
        .documents
        .iter()
        .map(|(key, write)| {
            let (kind, id) = (write.owner.kind.as_str(), write.owner.id.as_str());
            let body = write.value.map(|body| {
                bodies.extend_from_slice(body.get().as_bytes());
                (bodies.len() + 1 - body.get().len(), body.get().len())
            });
            (&key.collection, &key.id, kind, id, write.version, body.map(|b| b.0), body.map(|b| b.1))
        })
        .collect();
    let nodes: Vec<_> = plan
        .nodes
        .iter()
        .map(|(node, write)| {
            let (kind, id) = (write.owner.kind.as_str(), write.owner.id.as_str());
            (&node.kind, &node.id, kind, id, write.version, i64::from(write.value))
        })
        .collect();
    let sets: Vec<_> = plan
        .edges
        .iter()
        .map(|((source, predicate), write)| {
            let (kind, id) = (write.owner.kind.as_str(), write.owner.id.as_str());
            (&source.kind, &source.id, predicate, kind, id, write.version)
        })
        .collect();
    let edges: Vec<_> = plan
        .edges
        .iter()
        .flat_map(|((source, predicate), write)| {
            let edge = move |to: &'_ Node| {
                (&source.kind, &source.id, *predicate, to.kind.clone(), to.id.clone(), write.version)
            };
            write.value.iter().map(edge)
        })
        .collect();
    rows_arguments(ending, ending.len())
        .with(batch.build.to_owned())
        .with(json(&documents))
        .with(json(&nodes))
        .with(json(&sets))
        .with(json(&edges))
        .with(bodies)
        .with(batch.consumer.to_owned())
        .with(checkpoint.map(|(partition, _)| i64::from(partition.0)))
        .with(checkpoint.map(|(_, position)| int(position.0)))
        .with(batch.begun.map(|id| id.to_string()))
}
