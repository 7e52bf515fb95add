//! The read model's reads. SQL finds candidates by key, prefix, words and the simplest comparisons; what a filter means
//! is decided by the one function that every read model uses.
//!
//! Words are indexed lazily: writing a document only marks it, and a search for words first brings the marked ones into
//! the index, in steps. So the write path pays nothing for full text, and a search misses nothing written before it.

use serde_json::Value;
use sqlx::sqlite::SqliteRow;

use super::connection::Arguments;
use super::{Database, corrupt, failed, get, json, limit, unsigned};
use crate::adapter::rows::{self, passes, search_step};
use crate::port::Result;
use crate::port::read_model::{Document, DocumentKey, Edge, Filter, Node, Operator, Query, matching};

/// Documents whose words one transaction indexes: some ten milliseconds of the one writer.
const TEXT_STEP: usize = 500;

// Without a build in $1 it is the one that readers see: found in the same statement, so that both are of one moment.
const DOCUMENTS: &str = "
SELECT d.collection, d.id, d.owner_type, d.owner_id, d.version, d.body, j.key
  FROM jsonb_each($2) j CROSS JOIN documents d
 WHERE d.build = coalesce($1, (SELECT l.build FROM live_collections l WHERE l.collection = j.value ->> 0))
   AND d.collection = j.value ->> 0 AND d.id = j.value ->> 1 AND d.body IS NOT NULL";

macro_rules! build {
    () => {
        "coalesce($1, (SELECT l.build FROM live_collections l WHERE l.collection = $2))"
    };
}

macro_rules! candidates {
    ($($from:expr),*) => {
        concat!(
            "
SELECT d.collection, d.id, d.owner_type, d.owner_id, d.version, d.body FROM ",
            $($from,)*
            "
   AND d.build = ",
            build!(),
            " AND d.collection = $2 AND d.id > $3 AND d.id >= $4 AND d.id < coalesce($5, x'')
   AND d.body IS NOT NULL AND ($6 IS NULL OR json_extract(d.body, $6) = $7)
 ORDER BY d.id LIMIT +$8"
        )
    };
}

// A blob is above every text, so `x''` is no upper end.
const BY_KEY: &str = candidates!("documents d WHERE true");
const BY_WORDS: &str = candidates!(
    "documents_text t CROSS JOIN documents d WHERE t.documents_text MATCH 'scope : \"b' || hex(",
    build!(),
    ") || 'c' || hex($2) || '\" AND words : (' || $9 || ')' AND d.number = t.rowid"
);

const STALE_TEXT: &str = "SELECT EXISTS (SELECT 1 FROM documents WHERE text_is_stale = 1)";

const REFRESH_TEXT: &str = "
BEGIN IMMEDIATE;
DELETE FROM documents_text
 WHERE rowid IN (SELECT number FROM documents WHERE text_is_stale = 1 ORDER BY number LIMIT +$1);
INSERT INTO documents_text (rowid, scope, words)
SELECT number, 'b' || hex(build) || 'c' || hex(collection),
       (SELECT group_concat(atom, ' ') FROM json_tree(body) WHERE type = 'text')
  FROM documents
 WHERE body IS NOT NULL
   AND number IN (SELECT number FROM documents WHERE text_is_stale = 1 ORDER BY number LIMIT +$1);
UPDATE documents SET text_is_stale = 0
 WHERE number IN (SELECT number FROM documents WHERE text_is_stale = 1 ORDER BY number LIMIT +$1)
RETURNING number;
COMMIT";

/// The edges of each build one after another, each no further than a page, in the order of all.
macro_rules! edges {
    ($and:literal, $order:literal) => {
        concat!(
            "
WITH seen (name) AS (
    SELECT $1 WHERE $1 IS NOT NULL
    UNION ALL
    SELECT name FROM projection_builds WHERE $1 IS NULL AND state = 'live'
)
SELECT DISTINCT j.value ->> 0 AS source_kind, j.value ->> 1 AS source_id, j.value ->> 2 AS predicate,
       j.value ->> 3 AS target_kind, j.value ->> 4 AS target_id
  FROM seen CROSS JOIN json_each((
    SELECT json_group_array(json_array(source_kind, source_id, predicate, target_kind, target_id)) FROM (
        SELECT source_kind, source_id, predicate, target_kind, target_id FROM graph_edges
         WHERE build = seen.name AND ",
            $and,
            " ORDER BY ",
            $order,
            " LIMIT +$9))) j
 ORDER BY ",
            $order,
            " LIMIT +$9"
        )
    };
}

const OUTGOING: &str = edges!(
    "source_kind = $2 AND source_id = $3
           AND ($4 IS NULL OR (predicate, target_kind, target_id) > ($6, $7, $8))",
    "predicate, target_kind, target_id"
);

const INCOMING: &str = edges!(
    "target_kind = $2 AND target_id = $3
           AND ($4 IS NULL OR (source_kind, source_id, predicate) > ($4, $5, $6))",
    "source_kind, source_id, predicate"
);

/// Strings of statements that run for every command, read or write, for the test of their plans.
#[cfg(test)]
pub(super) const BUSY_SQL: &[&str] = &[DOCUMENTS, BY_KEY, BY_WORDS, REFRESH_TEXT, OUTGOING, INCOMING];

impl Database {
    /// Brings the words of documents written lately into the full-text index, at most [`TEXT_STEP`] of them; gives how
    /// many. Calling it while idle makes the next search for words faster.
    pub async fn refresh_text(&self) -> Result<usize> {
        let stale = self.inner.readers.run(STALE_TEXT, Arguments::default()).await.map_err(failed)?;
        if !stale.first().map(|row| get::<bool>(row, 0)).transpose()?.unwrap_or(false) {
            return Ok(0);
        }
        let arguments = Arguments::default().with(limit(TEXT_STEP));
        Ok(self.inner.writer.run(REFRESH_TEXT, arguments).await.map_err(failed)?.len())
    }
}

pub(super) async fn documents(
    database: &Database,
    build: Option<&str>,
    keys: &[DocumentKey],
) -> Result<Vec<Option<Document>>> {
    let rows: Vec<_> = keys.iter().map(|key| (&key.collection, &key.id)).collect();
    let arguments = Arguments::default().with(build.map(str::to_owned)).with(json(&rows));
    let mut found = vec![None; keys.len()];
    // Only a projection names a build. It asks between its writes: the writer has those pages in memory, while a
    // reader drops all it has whenever something was written.
    let rows = match build {
        Some(_) => database.inner.writer.run(DOCUMENTS, arguments).await,
        None => database.inner.readers.run(DOCUMENTS, arguments).await,
    };
    for row in &rows.map_err(failed)? {
        let slot = usize::try_from(get::<i64>(row, 6)?).ok().and_then(|slot| found.get_mut(slot));
        *slot.ok_or_else(|| corrupt("a row answers no question"))? = Some(document(row)?);
    }
    Ok(found)
}

pub(super) async fn search(database: &Database, query: &Query) -> Result<Vec<Document>> {
    let words: Vec<String> = query.text.as_deref().map(|text| matching::words(text).collect()).unwrap_or_default();
    if !words.is_empty() {
        while database.refresh_text().await? == TEXT_STEP {}
    }
    let (path, value) = query.filters.iter().find_map(simple).unzip();
    let step = search_step(query);
    let mut found = Vec::new();
    let mut after = query.after.clone().unwrap_or_default();
    while found.len() < query.limit {
        let arguments = Arguments::default()
            .with(query.build.clone())
            .with(query.collection.clone())
            .with(after)
            .with(query.id_prefix.clone())
            .with(matching::prefix_end(&query.id_prefix))
            .with(path.clone());
        let arguments = match &value {
            Some(Value::String(text)) => arguments.with(text.clone()),
            Some(other) => arguments.with(other.as_i64()),
            None => arguments.with(None::<i64>),
        };
        let arguments = arguments.with(limit(step));
        let rows = if words.is_empty() {
            database.inner.readers.run(BY_KEY, arguments).await
        } else {
            database.inner.readers.run(BY_WORDS, arguments.with(quoted(&words))).await
        }
        .map_err(failed)?;
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

/// A filter that SQL may apply before: `=` of a text or whole number, at a path whose parts need no quoting and index
/// no list, so that SQL drops nothing that passes.
fn simple(filter: &Filter) -> Option<(String, Value)> {
    let plain = |part: &String| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let exact = filter.value.is_string() || filter.value.is_i64();
    let applies = exact && filter.operator == Operator::Equal && !filter.path.is_empty();
    (applies && filter.path.iter().all(plain)).then(|| (format!("$.{}", filter.path.join(".")), filter.value.clone()))
}

/// Words are runs of letters and digits, and quoted: nothing a user types is an operator.
fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(" AND ")
}

pub(super) async fn edges(
    database: &Database,
    build: Option<&str>,
    node: &Node,
    outgoing: bool,
    after: Option<&Edge>,
    count: usize,
) -> Result<Vec<Edge>> {
    let text = |part: fn(&Edge) -> &String| after.map(|edge| part(edge).clone());
    let arguments = Arguments::default()
        .with(build.map(str::to_owned))
        .with(node.kind.clone())
        .with(node.id.clone())
        .with(text(|edge| &edge.source.kind))
        .with(text(|edge| &edge.source.id))
        .with(text(|edge| &edge.predicate))
        .with(text(|edge| &edge.target.kind))
        .with(text(|edge| &edge.target.id))
        .with(limit(count));
    let rows = database.inner.readers.run(if outgoing { OUTGOING } else { INCOMING }, arguments).await;
    let edge = |row: &SqliteRow| Ok(rows::edge([get(row, 0)?, get(row, 1)?, get(row, 2)?, get(row, 3)?, get(row, 4)?]));
    rows.map_err(failed)?.iter().map(edge).collect()
}

fn document(row: &SqliteRow) -> Result<Document> {
    let (key, owner) = ((get(row, 0)?, get(row, 1)?), (get(row, 2)?, get(row, 3)?));
    rows::document(key, owner, unsigned(row, 4)?, get(row, 5)?)
}
