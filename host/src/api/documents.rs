//! Documents of any projection, and the graph: what loaded projections write is read here.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use utoipa::ToSchema;

use super::commands::json;
use super::dto::ProblemBody;
use super::instances::search;
use super::problem::Problem;
use super::read::{InPath, Read, document};
use super::request::{Params, parameter};
use super::{Api, Principal};
use crate::port::read_model::{Document, Edge, Node};
use crate::query::{Source, filter};

/// A document of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentBody {
    pub id: String,
    #[schema(value_type = Object)]
    pub body: Arc<RawValue>,
}

/// One page of documents, by id.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentsBody {
    pub documents: Vec<DocumentBody>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// A node of the graph.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeBody {
    pub kind: String,
    pub id: String,
}

impl From<Node> for NodeBody {
    fn from(node: Node) -> NodeBody {
        NodeBody { kind: node.kind, id: node.id }
    }
}

/// An edge of the graph.
#[derive(Debug, Serialize, ToSchema)]
pub struct EdgeBody {
    pub source: NodeBody,
    pub predicate: String,
    pub target: NodeBody,
}

/// One page of edges, in order.
#[derive(Debug, Serialize, ToSchema)]
pub struct EdgesBody {
    pub edges: Vec<EdgeBody>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// One document.
#[utoipa::path(
    get, path = "/api/v1/documents/{collection}/{id}", tag = "documents",
    params(("collection" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = ProblemBody))
)]
pub async fn get_document(
    State(api): State<Api>,
    principal: Principal,
    InPath((collection, id)): InPath<(String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let read = Read::begin(&api, Source::Collection(&collection), &headers).await?;
    let found = api.queries.document_or_missing(&collection, &id).await?;
    principal.check_aggregate(&found.owner)?;
    Ok(read.finish(document(&found)?))
}

/// Documents of a collection, by id.
#[utoipa::path(
    get, path = "/api/v1/documents/{collection}", tag = "documents",
    params(
        ("collection" = String, Path),
        ("q" = Option<String>, Query, description = "words that must all occur"),
        ("filter" = Option<Vec<String>>, Query, description = "field<op>value with = != < <= > >=; may be repeated"),
        ("limit" = Option<usize>, Query), ("after" = Option<String>, Query),
    ),
    responses((status = 200, body = DocumentsBody))
)]
pub async fn list_documents(
    State(api): State<Api>,
    principal: Principal,
    InPath(collection): InPath<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let search = search(&params, filter::parse)?;
    let read = Read::begin(&api, Source::Collection(&collection), &headers).await?;
    let may_see = |document: &Document| principal.check_aggregate(&document.owner).is_ok();
    let found = api.queries.list(&collection, String::new(), search, may_see).await?;
    let documents =
        found.documents.into_iter().map(|document| DocumentBody { id: document.key.id, body: document.body }).collect();
    Ok(read.finish(json(StatusCode::OK, &DocumentsBody { documents, next: found.next })?))
}

/// Edges that leave a node, or reach it.
#[utoipa::path(
    get, path = "/api/v1/graph/{kind}/{id}/edges", tag = "documents",
    params(
        ("kind" = String, Path), ("id" = String, Path),
        ("direction" = Option<String>, Query, description = "out (default) or in"),
        ("limit" = Option<usize>, Query), ("after" = Option<String>, Query),
    ),
    responses((status = 200, body = EdgesBody))
)]
pub async fn edges(
    State(api): State<Api>,
    principal: Principal,
    InPath((kind, id)): InPath<(String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&["direction", "limit", "after"])?;
    principal.check_unlimited("the graph joins what belongs to all databases")?;
    let outgoing = match params.one("direction")? {
        None | Some("out") => true,
        Some("in") => false,
        Some(_) => return Err(parameter("direction", "it must be out or in")),
    };
    let limit = params.limit()?;
    let after = params.one("after")?.map(edge).transpose()?;
    let read = Read::begin(&api, Source::Graph, &headers).await?;
    let mut found = api.queries.edges(&Node { kind, id }, outgoing, after.as_ref(), limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(place);
    let edges = found.into_iter().map(|edge| EdgeBody {
        source: edge.source.into(),
        predicate: edge.predicate,
        target: edge.target.into(),
    });
    Ok(read.finish(json(StatusCode::OK, &EdgesBody { edges: edges.collect(), next })?))
}

/// The text of an edge that `after` takes: its five parts as a JSON list.
fn place(edge: &Edge) -> String {
    let parts = [&edge.source.kind, &edge.source.id, &edge.predicate, &edge.target.kind, &edge.target.id];
    serde_json::json!(parts).to_string()
}

fn edge(text: &str) -> Result<Edge, Problem> {
    let refused = |_| parameter("after", "it is no `next` of this list");
    let [kind, id, predicate, target_kind, target_id]: [String; 5] = serde_json::from_str(text).map_err(refused)?;
    Ok(Edge { source: Node { kind, id }, predicate, target: Node { kind: target_kind, id: target_id } })
}
