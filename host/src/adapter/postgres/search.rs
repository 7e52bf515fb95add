//! The read model's reads. SQL finds candidates by key, prefix and terms; what a filter means is decided by the one
//! function that every read model uses.

use sqlx::postgres::PgRow;

use super::connection::{Arguments, Pool};
use super::{get, terms, unsigned};
use crate::adapter::rows::{self, corrupt, limit, passes, search_step};
use crate::port::Result;
use crate::port::read_model::{Document, DocumentKey, Edge, Node, Query, matching};

/// Above every id: ids have at most 1,024 bytes.
const HIGHEST: char = '\u{10FFFF}';
const HIGHEST_CHARS: usize = 257;

macro_rules! columns {
    () => {
        "d.collection, d.id, d.owner_type, d.owner_id, d.version, d.body::text"
    };
}

// Without a build in $1 it is the one that readers see: found in the same statement, so that both are of one moment.
const DOCUMENTS: &str = concat!(
    "WITH asked AS MATERIALIZED (
    SELECT coalesce($1, (SELECT l.build FROM live_collections l WHERE l.collection = a.collection)) AS build, a.*
      FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS a (collection, id, slot)
)
SELECT ",
    columns!(),
    ", a.slot
  FROM asked a JOIN documents d ON d.build = a.build AND d.collection = a.collection AND d.id = a.id
 WHERE d.body IS NOT NULL"
);

macro_rules! candidates {
    ($and:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            "
  FROM documents d
 WHERE d.build = coalesce($1, (SELECT l.build FROM live_collections l WHERE l.collection = $2))
   AND d.collection = $2 AND d.id > $3 AND d.id >= $4 AND d.id < $5 AND d.body IS NOT NULL ",
            $and,
            " ORDER BY d.id LIMIT $6"
        )
    };
}

const BY_KEY: &str = candidates!("");
const BY_TERMS: &str = candidates!("AND d.terms @> $7::text[]");

/// The edges of each build one after another, each no further than a page, in the order of all.
macro_rules! edges {
    ($and:literal, $order:literal) => {
        concat!(
            "
SELECT DISTINCT e.*
  FROM (SELECT $1::text WHERE $1::text IS NOT NULL
        UNION ALL
        SELECT name FROM projection_builds WHERE $1::text IS NULL AND state = 'live') AS seen (name)
 CROSS JOIN LATERAL (
    SELECT source_kind, source_id, predicate, target_kind, target_id FROM graph_edges
     WHERE build = seen.name AND ",
            $and,
            " ORDER BY ",
            $order,
            " LIMIT $7) AS e
 ORDER BY ",
            $order,
            " LIMIT $7"
        )
    };
}

const OUTGOING: &str = edges!(
    "source_kind = $2 AND source_id = $3 AND (predicate, target_kind, target_id) > ($4, $5, $6)",
    "predicate, target_kind, target_id"
);

const INCOMING: &str = edges!(
    "target_kind = $2 AND target_id = $3 AND (source_kind, source_id, predicate) > ($4, $5, $6)",
    "source_kind, source_id, predicate"
);

/// Statements that run for every command, read or write, for the test of their plans.
#[cfg(test)]
pub(super) const BUSY_SQL: &[&str] = &[DOCUMENTS, BY_KEY, BY_TERMS, OUTGOING, INCOMING];

pub(super) async fn documents(pool: &Pool, build: Option<&str>, keys: &[DocumentKey]) -> Result<Vec<Option<Document>>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let arguments = Arguments::default()
        .with(build)
        .with(keys.iter().map(|key| key.collection.as_str()).collect::<Vec<_>>())
        .with(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>());
    let mut found = vec![None; keys.len()];
    for row in &pool.read(DOCUMENTS, arguments).await? {
        // Ordinality counts from one.
        let slot = usize::try_from(unsigned(row, 6)?).ok().and_then(|slot| found.get_mut(slot.wrapping_sub(1)));
        *slot.ok_or_else(|| corrupt("a row answers no question"))? = Some(document(row)?);
    }
    Ok(found)
}

pub(super) async fn search(pool: &Pool, query: &Query) -> Result<Vec<Document>> {
    let words = query.text.as_deref().into_iter().flat_map(terms::of_text);
    let wanted: Vec<String> = words.chain(query.filters.iter().flat_map(terms::of_filter)).collect();
    let end =
        matching::prefix_end(&query.id_prefix).unwrap_or_else(|| std::iter::repeat_n(HIGHEST, HIGHEST_CHARS).collect());
    let step = search_step(query);
    let mut found = Vec::new();
    let mut after = query.after.clone().unwrap_or_default();
    while found.len() < query.limit {
        let arguments = Arguments::default()
            .with(query.build.as_deref())
            .with(query.collection.as_str())
            .with(after)
            .with(query.id_prefix.as_str())
            .with(end.as_str())
            .with(limit(step));
        let rows = if wanted.is_empty() {
            pool.read(BY_KEY, arguments).await?
        } else {
            pool.read(BY_TERMS, arguments.with(&wanted)).await?
        };
        for row in &rows {
            let document = document(row)?;
            if found.len() < query.limit && passes(&document, &query.filters)? {
                found.push(document);
            }
        }
        match rows.last() {
            Some(last) if rows.len() == step => after = get(last, 1)?,
            _ => break,
        }
    }
    Ok(found)
}

pub(super) async fn edges(
    pool: &Pool,
    build: Option<&str>,
    node: &Node,
    outgoing: bool,
    after: Option<&Edge>,
    count: usize,
) -> Result<Vec<Edge>> {
    // Nothing that is stored is empty: every edge comes after empty names.
    let after = after.map_or([""; 3], |edge| match outgoing {
        true => [edge.predicate.as_str(), &edge.target.kind, &edge.target.id],
        false => [edge.source.kind.as_str(), &edge.source.id, &edge.predicate],
    });
    let arguments = Arguments::default()
        .with(build)
        .with(node.kind.as_str())
        .with(node.id.as_str())
        .with(after[0])
        .with(after[1])
        .with(after[2])
        .with(limit(count));
    let rows = pool.read(if outgoing { OUTGOING } else { INCOMING }, arguments).await?;
    let edge = |row: &PgRow| Ok(rows::edge([get(row, 0)?, get(row, 1)?, get(row, 2)?, get(row, 3)?, get(row, 4)?]));
    rows.iter().map(edge).collect()
}

fn document(row: &PgRow) -> Result<Document> {
    let (key, owner) = ((get(row, 0)?, get(row, 1)?), (get(row, 2)?, get(row, 3)?));
    rows::document(key, owner, unsigned(row, 4)?, get(row, 5)?)
}
