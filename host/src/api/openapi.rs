//! The OpenAPI 3.1 document, generated from the routes' own annotations. A test compares it with the router.

use std::sync::OnceLock;

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::{admin, admin_handlers as handlers, commands, documents, health, history, instances, ontology};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Carryall",
        description = "Event sourcing and CQRS host. Errors are RFC 9457 `application/problem+json`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        health::health, health::ready, health::metrics, document,
        commands::send, commands::status,
        ontology::create_database, ontology::list_databases, ontology::database_exists, ontology::delete_database,
        ontology::create_class, ontology::list_classes, ontology::get_class, ontology::update_class,
        ontology::delete_class,
        instances::create, instances::update, instances::remove, instances::bulk_create, instances::get,
        instances::list,
        history::aggregate, history::aggregate_events, history::event, history::events,
        documents::list_documents, documents::get_document, documents::edges,
        handlers::upload_handler, handlers::list_handlers, handlers::get_handler, handlers::activate_handler,
        handlers::roll_back_handler,
        handlers::rebuild_projection,
        admin::dead_letters, admin::retry, admin::discard, admin::claims, admin::release, admin::retire,
        admin::consumers, admin::relay, admin::operation, admin::cancel_operation,
    ),
    components(schemas(super::dto::ProblemBody)),
    modifiers(&Operator, &Problems),
)]
struct Document;

/// The bearer token that `/admin/v1` always needs.
struct Operator;

impl Modify for Operator {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_with(Default::default).add_security_scheme("operator", scheme);
    }
}

/// Every error of every route is a problem, and has its media type.
struct Problems;

const PROBLEM: &str = "application/problem+json";

impl Modify for Problems {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let slots = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
            for operation in slots.into_iter().flatten() {
                let responses = &mut operation.responses.responses;
                for (status, response) in responses.iter_mut() {
                    if let (RefOr::T(response), true) = (response, is_error(status) && path != "/ready") {
                        response.content.retain(|_, _| false);
                        response.content.insert(PROBLEM.into(), problem().into());
                    }
                }
                let rest = ResponseBuilder::new().description("any other problem").content(PROBLEM, problem());
                responses.entry("default".into()).or_insert_with(|| rest.build().into());
            }
        }
    }
}

fn is_error(status: &str) -> bool {
    status.starts_with(['4', '5'])
}

fn problem() -> Content {
    Content::new(Some(Ref::from_schema_name("ProblemBody")))
}

/// The document as JSON, made once.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| Document::openapi().to_json().expect("the document is made of plain values"))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "probes", responses((status = 200, body = Object)))]
pub async fn document() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text()).into_response()
}
