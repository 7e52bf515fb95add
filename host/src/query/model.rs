//! The read model: instances, classes, databases, and the documents of any other projection.

use super::{Error, Service, What};
use crate::domain::{ClassName, DatabaseName, InstanceId};
use crate::port::read_model::{Document, DocumentKey, Edge, Filter, Node, Query};

/// What a list is narrowed by.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Words that must all occur.
    pub text: Option<String>,
    pub filters: Vec<Filter>,
    /// `next` of the page before.
    pub after: Option<String>,
    pub limit: usize,
}

/// One page of documents.
#[derive(Debug, Clone)]
pub struct Documents {
    pub documents: Vec<Document>,
    /// `after` of the next page, when there is more.
    pub next: Option<String>,
}

/// Documents looked at together once some were passed over.
const HIDDEN_AT_ONCE: usize = 100;

impl Service {
    /// One instance.
    pub async fn instance(&self, db: &DatabaseName, class: &ClassName, id: &InstanceId) -> Result<Document, Error> {
        let key = format!("{db}:{class}:{id}");
        self.document("instances", &key).await?.ok_or(Error::NotFound { what: What::Instance, id: key })
    }

    /// Instances of a class, by id.
    pub async fn instances(&self, db: &DatabaseName, class: &ClassName, search: Search) -> Result<Documents, Error> {
        self.list("instances", format!("{db}:{class}:"), search, |_| true).await
    }

    /// One class.
    pub async fn class(&self, db: &DatabaseName, class: &ClassName) -> Result<Document, Error> {
        let key = format!("{db}:{class}");
        self.document("classes", &key).await?.ok_or(Error::NotFound { what: What::Class, id: key })
    }

    /// Classes of a database, by name.
    pub async fn classes(&self, db: &DatabaseName, search: Search) -> Result<Documents, Error> {
        self.list("classes", format!("{db}:"), search, |_| true).await
    }

    /// Whether a database is there.
    pub async fn database_exists(&self, db: &DatabaseName) -> Result<bool, Error> {
        Ok(self.document("databases", db.as_str()).await?.is_some())
    }

    /// Databases, by name; only these when `allowed` is given.
    pub async fn databases(&self, allowed: Option<&[String]>, search: Search) -> Result<Documents, Error> {
        let Some(allowed) = allowed else { return self.list("databases", String::new(), search, |_| true).await };
        let mut names: Vec<&String> =
            allowed.iter().filter(|name| search.after.as_ref().is_none_or(|after| *name > after)).collect();
        names.sort_unstable();
        names.dedup();
        let more = names.len() > search.limit;
        names.truncate(search.limit);
        let next = names.last().filter(|_| more).map(ToString::to_string);
        let keys: Vec<DocumentKey> = names.iter().map(|name| key("databases", name)).collect();
        let found = self.sources.read_model.documents(None, &keys).await?;
        Ok(Documents { documents: found.into_iter().flatten().collect(), next })
    }

    /// One document of any collection.
    pub async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, Error> {
        let found = self.sources.read_model.documents(None, &[key(collection, id)]).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// One document of any collection, which must be there.
    pub async fn document_or_missing(&self, collection: &str, id: &str) -> Result<Document, Error> {
        let missing = || Error::NotFound { what: What::Document, id: format!("{id} in {collection}") };
        self.document(collection, id).await?.ok_or_else(missing)
    }

    /// Documents of any collection, by id. Ids in `after` and `next` are without the prefix. Those that the asker may
    /// not see are passed over before they count: `next` tells nothing of them.
    pub async fn list(
        &self,
        collection: &str,
        id_prefix: String,
        search: Search,
        may_see: impl Fn(&Document) -> bool,
    ) -> Result<Documents, Error> {
        let limit = search.limit;
        let mut query = Query {
            build: None,
            collection: collection.into(),
            text: search.text,
            filters: search.filters,
            after: search.after.map(|after| format!("{id_prefix}{after}")),
            limit: limit + 1,
            id_prefix: id_prefix.clone(),
        };
        let mut documents = Vec::new();
        loop {
            let found = self.sources.read_model.search(&query).await?;
            let is_last = found.len() < query.limit;
            query.after = found.last().map(|document| document.key.id.clone());
            documents.extend(found.into_iter().filter(&may_see));
            if is_last || documents.len() > limit {
                break;
            }
            query.limit = HIDDEN_AT_ONCE;
        }
        let more = documents.len() > limit;
        documents.truncate(limit);
        let last = documents.last().filter(|_| more);
        let next = last.map(|document| document.key.id.strip_prefix(&id_prefix).unwrap_or(&document.key.id).to_owned());
        Ok(Documents { documents, next })
    }

    /// Edges that leave or reach a node of the graph.
    pub async fn edges(
        &self,
        node: &Node,
        outgoing: bool,
        after: Option<&Edge>,
        limit: usize,
    ) -> Result<Vec<Edge>, Error> {
        Ok(self.sources.read_model.edges(None, node, outgoing, after, limit).await?)
    }
}

fn key(collection: &str, id: &str) -> DocumentKey {
    DocumentKey { collection: collection.into(), id: id.into() }
}
