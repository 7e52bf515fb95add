//! Instances: commands for the instance handler, and reads of the read model.

use std::borrow::Cow;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::commands::{Control, Sender, json};
use super::dto::{AcceptedBody, InstancesBody, ProblemBody, bodies};
use super::ontology::{delete, reachable};
use super::problem::Problem;
use super::read::{InPath, Read, document};
use super::request::{self, Params, parameter};
use super::{Api, Principal};
use crate::command::bundled::{self, InstanceKey};
use crate::command::instance_id;
use crate::domain::{ClassName, InstanceId};
use crate::query::filter::{self, FILTERS_MAX, Filter};
use crate::query::{self, Search, Source};

/// Greatest length of `q`, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// Data of one instance.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceBody<'a> {
    /// Properties and relationships; in an update a merge patch, where null removes.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = "uuid")]
    command_id: Option<Cow<'a, str>>,
    #[serde(default)]
    expected_seq: Option<u64>,
    #[serde(borrow, default)]
    actor: Option<Cow<'a, str>>,
}

/// Data of many instances of one class.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkBody<'a> {
    /// One object each.
    #[serde(borrow)]
    #[schema(value_type = Vec<Object>)]
    instances: &'a RawValue,
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = "uuid")]
    command_id: Option<Cow<'a, str>>,
    #[serde(default)]
    expected_seq: Option<u64>,
    #[serde(borrow, default)]
    actor: Option<Cow<'a, str>>,
}

/// Creates an instance; its id is taken from the data, or made.
#[utoipa::path(
    post, path = "/api/v1/instances/{db}/async/{class}/create", tag = "instances",
    params(("db" = String, Path), ("class" = String, Path)), request_body = InstanceBody<'_>,
    responses((status = 202, body = AcceptedBody<'_>), (status = 409, body = ProblemBody))
)]
pub async fn create(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class)): InPath<(String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let (db, class) = (reachable(&principal, &db)?, ClassName::parse(&class)?);
    let (sender, body) = Sender::take(api, principal, params, request).await?;
    let body: InstanceBody<'_> = request::parse(&body)?;
    let (data, control) = body.split();
    let identity = sender.identify(&control)?;
    let instance = instance_id::of_create(&class, data, identity.command_id)?;
    let bundled = bundled::create_instance(&InstanceKey { db, class, instance }, data)?;
    sender.send(identity, control, bundled).await
}

/// Changes an instance.
#[utoipa::path(
    put, path = "/api/v1/instances/{db}/async/{class}/{id}/update", tag = "instances",
    params(
        ("db" = String, Path), ("class" = String, Path), ("id" = String, Path),
        ("expected_seq" = Option<u64>, Query),
    ),
    request_body = InstanceBody<'_>,
    responses((status = 202, body = AcceptedBody<'_>), (status = 409, body = ProblemBody))
)]
pub async fn update(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class, id)): InPath<(String, String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let key = InstanceKey::parse(&db, &class, &id)?;
    principal.check_database(&db)?;
    let (sender, body) = Sender::take(api, principal, params, request).await?;
    let body: InstanceBody<'_> = request::parse(&body)?;
    let (data, control) = body.split();
    let identity = sender.identify(&control)?;
    sender.send(identity, control, bundled::update_instance(&key, data)?).await
}

/// Deletes an instance.
#[utoipa::path(
    delete, path = "/api/v1/instances/{db}/async/{class}/{id}/delete", tag = "instances",
    params(
        ("db" = String, Path), ("class" = String, Path), ("id" = String, Path),
        ("expected_seq" = Option<u64>, Query),
    ),
    responses((status = 202, body = AcceptedBody<'_>), (status = 409, body = ProblemBody))
)]
pub async fn remove(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class, id)): InPath<(String, String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let key = InstanceKey::parse(&db, &class, &id)?;
    principal.check_database(&db)?;
    delete(api, principal, params, request, || bundled::delete_instance(&key)).await
}

/// Creates many instances: one command each, one status for all.
#[utoipa::path(
    post, path = "/api/v1/instances/{db}/async/{class}/bulk-create", tag = "instances",
    params(("db" = String, Path), ("class" = String, Path)), request_body = BulkBody<'_>,
    responses((status = 202, body = AcceptedBody<'_>), (status = 413, body = ProblemBody))
)]
pub async fn bulk_create(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class)): InPath<(String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let (db, class) = (reachable(&principal, &db)?, ClassName::parse(&class)?);
    let (sender, body) = Sender::take(api, principal, params, request).await?;
    let body: BulkBody<'_> = request::parse(&body)?;
    let control = Control {
        command_id: body.command_id,
        expected_seq: body.expected_seq,
        metadata: body.metadata,
        actor: body.actor,
    };
    let identity = sender.identify(&control)?;
    let bundled = bundled::bulk_create(&db, &class, body.instances, identity.command_id)?;
    sender.send(identity, control, bundled).await
}

/// One instance.
#[utoipa::path(
    get, path = "/api/v1/instances/{db}/{class}/{id}", tag = "instances",
    params(
        ("db" = String, Path), ("class" = String, Path), ("id" = String, Path),
        ("Consistency-Token" = Option<String>, Header, description = "waits until this is projected"),
        ("Prefer" = Option<String>, Header, description = "wait=N seconds at most"),
    ),
    responses(
        (status = 200, body = Object),
        (status = 404, body = ProblemBody),
        (status = 503, description = "projection-behind", body = ProblemBody),
    )
)]
pub async fn get(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class, id)): InPath<(String, String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let (db, class, id) = (reachable(&principal, &db)?, ClassName::parse(&class)?, InstanceId::parse(&id)?);
    let read = Read::begin(&api, Source::Instances, &headers).await?;
    Ok(read.finish(document(&api.queries.instance(&db, &class, &id).await?)?))
}

/// Instances of a class, by id.
#[utoipa::path(
    get, path = "/api/v1/instances/{db}/{class}", tag = "instances",
    params(
        ("db" = String, Path), ("class" = String, Path),
        ("q" = Option<String>, Query, description = "words that must all occur"),
        ("filter" = Option<Vec<String>>, Query, description = "field<op>value with = != < <= > >=; may be repeated"),
        ("limit" = Option<usize>, Query), ("after" = Option<String>, Query),
    ),
    responses(
        (status = 200, body = InstancesBody),
        (status = 503, description = "projection-behind", body = ProblemBody),
    )
)]
pub async fn list(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class)): InPath<(String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (db, class) = (reachable(&principal, &db)?, ClassName::parse(&class)?);
    let search = search(&params, filter::parse_of_instances)?;
    let read = Read::begin(&api, Source::Instances, &headers).await?;
    let found = api.queries.instances(&db, &class, search).await?;
    let body = InstancesBody { instances: bodies(found.documents), next: found.next };
    Ok(read.finish(json(StatusCode::OK, &body)?))
}

/// Narrowing parameters of a list of documents.
pub fn search(params: &Params, parse: fn(&str) -> Result<Filter, query::Error>) -> Result<Search, Problem> {
    params.only(&["q", "filter", "limit", "after"])?;
    let text = params.one("q")?.filter(|text| !text.trim().is_empty()).map(str::to_owned);
    if text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(parameter("q", format!("it must have at most {TEXT_BYTES_MAX} bytes")));
    }
    let filters = params.all("filter").map(parse).collect::<Result<Vec<_>, _>>()?;
    if filters.len() > FILTERS_MAX {
        return Err(parameter("filter", format!("at most {FILTERS_MAX} filters are allowed")));
    }
    let after = params.one("after")?.map(str::to_owned);
    Ok(Search { text, filters, after, limit: params.limit()? })
}

impl<'a> InstanceBody<'a> {
    fn split(self) -> (&'a RawValue, Control<'a>) {
        let control = Control {
            command_id: self.command_id,
            expected_seq: self.expected_seq,
            metadata: self.metadata,
            actor: self.actor,
        };
        (self.data, control)
    }
}
