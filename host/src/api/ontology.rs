//! Databases and their classes: commands for the ontology handler, and reads of the read model.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::commands::{Control, Sender, json};
use super::dto::{AcceptedBody, DataBody, DatabasesBody, ExistsBody, OntologiesBody, ProblemBody, bodies};
use super::members::Checked;
use super::problem::Problem;
use super::read::{InPath, Read, document};
use super::request::Params;
use super::{Api, Principal};
use crate::command::bundled::{self, Bundled};
use crate::domain::{ClassName, DatabaseName};
use crate::query::{Search, Source};

/// Creates a database.
#[utoipa::path(
    post, path = "/api/v1/database/create", tag = "databases",
    request_body(
        content = Object,
        description = "`{name, description}`, and if wanted `command_id`, `expected_seq`, `metadata`, `actor`",
    ),
    responses((status = 202, body = AcceptedBody<'_>), (status = 409, body = ProblemBody))
)]
pub async fn create_database(
    State(api): State<Api>,
    principal: Principal,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let (sender, body) = Sender::take(api, principal, params, request).await?;
    let body = Checked::parse(&body)?;
    let mut members = body.members()?;
    let name = members.text("name")?.ok_or_else(|| missing("name"))?;
    let db = DatabaseName::parse(&name)?;
    let control = std::mem::take(&mut members.control);
    let identity = sender.identify(&control)?;
    let bundled = bundled::create_database(&db, &members.object("name", &name)?)?;
    sender.send(identity, control, bundled).await
}

/// Lists databases.
#[utoipa::path(
    get, path = "/api/v1/database/list", tag = "databases",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = DataBody<DatabasesBody>))
)]
pub async fn list_databases(
    State(api): State<Api>,
    principal: Principal,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&["limit", "after"])?;
    let read = Read::begin(&api, Source::Databases, &headers).await?;
    let search = page(&params)?;
    let found = api.queries.databases(principal.databases().map(|list| &**list), search).await?;
    let data = DatabasesBody { databases: bodies(found.documents), next: found.next };
    Ok(read.finish(json(StatusCode::OK, &DataBody { data })?))
}

/// Whether a database exists.
#[utoipa::path(
    get, path = "/api/v1/database/exists/{db}", tag = "databases",
    params(("db" = String, Path)), responses((status = 200, body = DataBody<ExistsBody>))
)]
pub async fn database_exists(
    State(api): State<Api>,
    principal: Principal,
    InPath(db): InPath<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let db = reachable(&principal, &db)?;
    let read = Read::begin(&api, Source::Databases, &headers).await?;
    let exists = api.queries.database_exists(&db).await?;
    Ok(read.finish(json(StatusCode::OK, &DataBody { data: ExistsBody { exists } })?))
}

/// Deletes a database.
#[utoipa::path(
    delete, path = "/api/v1/database/{db}", tag = "databases",
    params(("db" = String, Path), ("expected_seq" = Option<u64>, Query)),
    responses((status = 202, body = AcceptedBody<'_>), (status = 409, body = ProblemBody))
)]
pub async fn delete_database(
    State(api): State<Api>,
    principal: Principal,
    InPath(db): InPath<String>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let db = reachable(&principal, &db)?;
    delete(api, principal, params, request, || bundled::delete_database(&db)).await
}

/// Creates a class.
#[utoipa::path(
    post, path = "/api/v1/database/{db}/ontology", tag = "classes",
    params(("db" = String, Path)),
    request_body(content = Object, description = "a class"),
    responses((status = 202, body = AcceptedBody<'_>), (status = 409, body = ProblemBody))
)]
pub async fn create_class(
    State(api): State<Api>,
    principal: Principal,
    InPath(db): InPath<String>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let db = reachable(&principal, &db)?;
    let (sender, body) = Sender::take(api, principal, params, request).await?;
    let body = Checked::parse(&body)?;
    let mut members = body.members()?;
    let id = members.text("id")?.ok_or_else(|| missing("id"))?;
    let class = ClassName::parse(&id)?;
    let control = std::mem::take(&mut members.control);
    let identity = sender.identify(&control)?;
    let bundled = bundled::create_class(&db, &class, &members.object("id", &id)?)?;
    sender.send(identity, control, bundled).await
}

/// Lists the classes of a database.
#[utoipa::path(
    get, path = "/api/v1/database/{db}/ontology", tag = "classes",
    params(("db" = String, Path), ("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = DataBody<OntologiesBody>))
)]
pub async fn list_classes(
    State(api): State<Api>,
    principal: Principal,
    InPath(db): InPath<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&["limit", "after"])?;
    let db = reachable(&principal, &db)?;
    let read = Read::begin(&api, Source::Classes, &headers).await?;
    let found = api.queries.classes(&db, page(&params)?).await?;
    let data = OntologiesBody { ontologies: bodies(found.documents), next: found.next };
    Ok(read.finish(json(StatusCode::OK, &DataBody { data })?))
}

/// One class.
#[utoipa::path(
    get, path = "/api/v1/database/{db}/ontology/{class}", tag = "classes",
    params(("db" = String, Path), ("class" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = ProblemBody))
)]
pub async fn get_class(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class)): InPath<(String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let (db, class) = (reachable(&principal, &db)?, ClassName::parse(&class)?);
    let read = Read::begin(&api, Source::Classes, &headers).await?;
    Ok(read.finish(document(&api.queries.class(&db, &class).await?)?))
}

/// Changes a class.
#[utoipa::path(
    put, path = "/api/v1/database/{db}/ontology/{class}", tag = "classes",
    params(("db" = String, Path), ("class" = String, Path), ("expected_seq" = Option<u64>, Query)),
    request_body(
        content = Object,
        description = "the whole class; `allow_breaking: true` for a change that endangers what is stored",
    ),
    responses((status = 202, body = AcceptedBody<'_>), (status = 409, body = ProblemBody))
)]
pub async fn update_class(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class)): InPath<(String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let (db, class) = (reachable(&principal, &db)?, ClassName::parse(&class)?);
    let (sender, body) = Sender::take(api, principal, params, request).await?;
    let body = Checked::parse(&body)?;
    let mut members = body.members()?;
    if members.text("id")?.is_some_and(|id| id != class.as_str()) {
        return Err(Problem::invalid("contradicting_request", "the class in the address and the body's id disagree"));
    }
    let control = std::mem::take(&mut members.control);
    let identity = sender.identify(&control)?;
    let bundled = bundled::update_class(&db, &class, &members.object("id", class.as_str())?)?;
    sender.send(identity, control, bundled).await
}

/// Deletes a class.
#[utoipa::path(
    delete, path = "/api/v1/database/{db}/ontology/{class}", tag = "classes",
    params(("db" = String, Path), ("class" = String, Path), ("expected_seq" = Option<u64>, Query)),
    responses((status = 202, body = AcceptedBody<'_>), (status = 409, body = ProblemBody))
)]
pub async fn delete_class(
    State(api): State<Api>,
    principal: Principal,
    InPath((db, class)): InPath<(String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let (db, class) = (reachable(&principal, &db)?, ClassName::parse(&class)?);
    delete(api, principal, params, request, || bundled::delete_class(&db, &class)).await
}

/// A delete: the body may be missing, or say something about the command.
pub async fn delete(
    api: Api,
    principal: Principal,
    params: Params,
    request: Request,
    bundled: impl FnOnce() -> Result<Bundled, crate::command::Error>,
) -> Result<Response, Problem> {
    let (sender, body) = Sender::take(api, principal, params, request).await?;
    let body = Checked::parse(if body.is_empty() { b"{}" } else { &body })?;
    let mut members = body.members()?;
    members.nothing_else()?;
    let control: Control<'_> = std::mem::take(&mut members.control);
    let identity = sender.identify(&control)?;
    sender.send(identity, control, bundled()?).await
}

/// A database that the caller reaches.
pub fn reachable(principal: &Principal, db: &str) -> Result<DatabaseName, Problem> {
    let db = DatabaseName::parse(db)?;
    principal.check_database(db.as_str())?;
    Ok(db)
}

fn missing(name: &str) -> Problem {
    Problem::invalid("invalid_body", format!("{name} is missing")).with("field", name)
}

fn page(params: &Params) -> Result<Search, Problem> {
    let after = params.one("after")?.map(str::to_owned);
    Ok(Search { after, limit: params.limit()?, ..Search::default() })
}
