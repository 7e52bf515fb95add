//! The table of routes.

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{MethodRouter, delete, get, post, put};

use super::read::InPath;
use super::request::Params;
use super::{
    Api, Principal, admin, admin_handlers as handlers, commands, documents, history, instances, ontology, openapi,
};

/// Routes, and their patterns for the test that compares them with the OpenAPI document.
#[derive(Debug, Default)]
pub struct Routes {
    pub router: Router<Api>,
    pub patterns: Vec<&'static str>,
}

impl Routes {
    /// Adds the methods of one pattern.
    pub fn at(mut self, pattern: &'static str, methods: MethodRouter<Api>) -> Routes {
        self.router = self.router.route(pattern, methods);
        self.patterns.push(pattern);
        self
    }
}

/// Every route but the probes.
pub fn all() -> Routes {
    let routes = Routes::default().at("/openapi.json", get(openapi::document));
    let routes = domain(routes);
    admin(routes)
}

fn domain(routes: Routes) -> Routes {
    routes
        .at("/api/v1/commands", post(commands::send))
        .at("/api/v1/commands/{command_id}/status", get(commands::status))
        .at("/api/v1/database/create", post(ontology::create_database).merge(delete_database_named("create")))
        .at("/api/v1/database/list", get(ontology::list_databases).merge(delete_database_named("list")))
        .at("/api/v1/database/exists/{db}", get(ontology::database_exists))
        .at("/api/v1/database/{db}", delete(ontology::delete_database))
        .at("/api/v1/database/{db}/ontology", post(ontology::create_class).get(ontology::list_classes))
        .at(
            "/api/v1/database/{db}/ontology/{class}",
            get(ontology::get_class).put(ontology::update_class).delete(ontology::delete_class),
        )
        .at("/api/v1/instances/{db}/async/{class}/create", post(instances::create))
        .at("/api/v1/instances/{db}/async/{class}/bulk-create", post(instances::bulk_create))
        .at("/api/v1/instances/{db}/async/{class}/{id}/update", put(instances::update))
        .at("/api/v1/instances/{db}/async/{class}/{id}/delete", delete(instances::remove))
        .at("/api/v1/instances/{db}/{class}", get(instances::list))
        .at("/api/v1/instances/{db}/{class}/{id}", get(instances::get))
        .at("/api/v1/aggregates/{aggregate_type}/{aggregate_id}", get(history::aggregate))
        .at("/api/v1/aggregates/{aggregate_type}/{aggregate_id}/events", get(history::aggregate_events))
        .at("/api/v1/events", get(history::events))
        .at("/api/v1/events/{event_id}", get(history::event))
        .at("/api/v1/documents/{collection}", get(documents::list_documents))
        .at("/api/v1/documents/{collection}/{id}", get(documents::get_document))
        .at("/api/v1/graph/{kind}/{id}/edges", get(documents::edges))
}

/// Of a database whose name is that of a route.
fn delete_database_named(db: &'static str) -> MethodRouter<Api> {
    delete(move |api: State<Api>, principal: Principal, params: Params, request: Request| {
        ontology::delete_database(api, principal, InPath(db.to_owned()), params, request)
    })
}

fn admin(routes: Routes) -> Routes {
    routes
        .at("/admin/v1/handlers", post(handlers::upload_handler).get(handlers::list_handlers))
        .at("/admin/v1/handlers/{name}", get(handlers::get_handler))
        .at("/admin/v1/handlers/{name}/versions/{digest}/activate", post(handlers::activate_handler))
        .at("/admin/v1/handlers/{name}/rollback", post(handlers::roll_back_handler))
        .at("/admin/v1/handlers/{name}/rebuild", post(handlers::rebuild_projection))
        .at("/admin/v1/dead-letters", get(admin::dead_letters))
        .at("/admin/v1/dead-letters/{id}/retry", post(admin::retry))
        .at("/admin/v1/dead-letters/{id}/discard", post(admin::discard))
        .at("/admin/v1/claims", get(admin::claims))
        .at("/admin/v1/claims/retire", post(admin::retire))
        .at("/admin/v1/claims/{handler}/{event_id}/release", post(admin::release))
        .at("/admin/v1/consumers", get(admin::consumers))
        .at("/admin/v1/relay", get(admin::relay))
        .at("/admin/v1/operations/{id}", get(admin::operation).delete(admin::cancel_operation))
}
