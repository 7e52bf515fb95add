//! Compares two read models document by document, to the byte. Each has its documents in byte order of their ids, so
//! one walk over both finds whatever only one of them has.

use super::report::Checked;
use crate::port;
use crate::port::read_model::{Document, Node, Query, ReadModel};

/// Documents of one page: some hundred kilobytes.
const PAGE: usize = 500;
/// Edges of one node that are compared.
const EDGES_MAX: usize = 10_000;

/// Documents of a collection, page after page.
struct Pages<'a> {
    model: &'a dyn ReadModel,
    query: Query,
    page: std::vec::IntoIter<Document>,
    more: bool,
}

impl<'a> Pages<'a> {
    fn new(model: &'a dyn ReadModel, collection: &str) -> Pages<'a> {
        let query = Query {
            build: None,
            collection: collection.into(),
            id_prefix: String::new(),
            text: None,
            filters: Vec::new(),
            after: None,
            limit: PAGE,
        };
        Pages { model, query, page: Vec::new().into_iter(), more: true }
    }

    async fn next(&mut self) -> port::Result<Option<Document>> {
        if let Some(document) = self.page.next() {
            return Ok(Some(document));
        }
        if !self.more {
            return Ok(None);
        }
        let found = self.model.search(&self.query).await?;
        self.more = found.len() == PAGE;
        self.query.after = found.last().map(|document| document.key.id.clone());
        self.page = found.into_iter();
        Ok(self.page.next())
    }
}

/// Compares what readers see of the documents of these collections and the edges of these nodes: in `live` as it was
/// written, in `fresh` as the log makes it.
pub async fn compare(
    live: &dyn ReadModel,
    fresh: &dyn ReadModel,
    collections: &[String],
    nodes: &[Node],
    checked: &mut Checked,
) -> port::Result<()> {
    for collection in collections {
        let (mut have, mut want) = (Pages::new(live, collection), Pages::new(fresh, collection));
        let (mut left, mut right) = (have.next().await?, want.next().await?);
        loop {
            let order = match (&left, &right) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(left), Some(right)) => left.key.id.cmp(&right.key.id),
            };
            checked.checked += 1;
            match (order, &left, &right) {
                (std::cmp::Ordering::Less, Some(extra), _) => {
                    checked.add(name(extra), "document_unexplained", "the log does not lead to it");
                }
                (std::cmp::Ordering::Greater, _, Some(missing)) => {
                    checked.add(name(missing), "document_missing", "the log leads to it, and it is not there");
                }
                (_, Some(left), Some(right)) => {
                    if let Some(difference) = difference(left, right) {
                        checked.add(name(left), "document_differs", difference);
                    }
                }
                _ => {}
            }
            if order.is_le() {
                left = have.next().await?;
            }
            if order.is_ge() {
                right = want.next().await?;
            }
        }
    }
    for node in nodes {
        for outgoing in [true, false] {
            let have = live.edges(None, node, outgoing, None, EDGES_MAX).await?;
            let want = fresh.edges(None, node, outgoing, None, EDGES_MAX).await?;
            checked.checked += 1;
            if have != want {
                let message = format!("{} edges, and the log makes {} of them, or others", have.len(), want.len());
                checked.add(format!("graph/{}/{}", node.kind, node.id), "edges_differ", message);
            }
        }
    }
    Ok(())
}

fn name(document: &Document) -> String {
    format!("document/{}/{}", document.key.collection, document.key.id)
}

fn difference(live: &Document, fresh: &Document) -> Option<String> {
    if live.owner != fresh.owner {
        return Some(format!("it belongs to {}, and the log says {}", live.owner, fresh.owner));
    }
    if live.version != fresh.version {
        return Some(format!("it has version {}, and the log makes {}", live.version, fresh.version));
    }
    let (have, want) = (live.body.get(), fresh.body.get());
    let at = have.bytes().zip(want.bytes()).position(|(have, want)| have != want).unwrap_or(have.len().min(want.len()));
    (have != want).then(|| format!("its bytes differ from the log's at offset {at}"))
}
