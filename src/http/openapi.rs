//! `/openapi.json` and its page, `/docs`.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{Redirect, Response};
use axum::routing::get;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use super::AppState;
use super::board::{Deleted, JobProgress};
use super::cached;
use super::error::{ApiError, Problem};
use super::v1::changes::ChangedJobs;
use crate::db::metrics::StoredPoint;
use crate::spec::{
    self, Augmentation, AutoAugment, EvalCrop, Grouping, Interpolation, LabelLoss, Method, Precision, Recipe, Sampling,
    StudentHead,
};

/// Swagger UI styles its elements inline.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:";

/// The document without its paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "distillery",
        description = "A job server for Scale Decoupled Distillation: post a job, watch it train, download the student.\n\n\
            Every 4xx and 5xx answer is an RFC 9457 problem document whose `detail` says what to do."
    ),
    tags(
        (name = "jobs", description = "Post a job and watch it train"),
        (name = "sweeps", description = "Sets of jobs that differ in a few settings"),
        (name = "artifacts", description = "Download the student and its report"),
        (name = "checkpoints", description = "Upload a teacher or a student to start from"),
        (name = "datasets", description = "Upload data sets, and look at them"),
        (name = "server", description = "What the server offers, and its state")
    ),
    components(schemas(
        Problem, StoredPoint, Deleted, JobProgress, ChangedJobs, Augmentation, AutoAugment, EvalCrop, Grouping,
        Interpolation, LabelLoss, Method, Precision, Recipe, Sampling, StudentHead
    ))
)]
struct BaseDocument;

pub fn base() -> utoipa::openapi::OpenApi {
    BaseDocument::openapi()
}

/// The document and its page.
pub fn routes(document: utoipa::openapi::OpenApi) -> Router<AppState> {
    let document = Bytes::from(complete(document).to_string());
    let etag = cached::etag(&Sha256::digest(&document));
    let answer = async move |headers: HeaderMap| {
        cached::respond(&headers, &etag, [(CONTENT_TYPE, "application/json")], document.clone())
    };
    Router::new()
        .route("/openapi.json", get(answer))
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async |headers: HeaderMap| page("", &headers)))
        .route("/docs/{*file}", get(async |Path(file): Path<String>, headers: HeaderMap| page(&file, &headers)))
        .layer(CompressionLayer::new())
}

fn page(file: &str, asked: &HeaderMap) -> Result<Response, ApiError> {
    static CONFIG: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from("/openapi.json").use_base_layout().try_it_out_enabled(true)));
    let found = utoipa_swagger_ui::serve(file, CONFIG.clone()).map_err(|error| anyhow::anyhow!("{error}"))?;
    let found = found.ok_or_else(|| ApiError::not_found("there is no such page"))?;
    let etag = cached::etag(&Sha256::digest(&found.bytes));
    let headers = [(CONTENT_TYPE, found.content_type), (CONTENT_SECURITY_POLICY, DOCS_POLICY.to_owned())];
    // Pages are parts of the program: whoever reads one slowly costs no copy of it.
    let bytes = match found.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let mut response = cached::respond(asked, &etag, headers, bytes);
    if found.gzpipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// What is the same for every operation, and what the derived schemas cannot say.
fn complete(document: utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("the document can be written as JSON");
    let problem = json!({
        "description": "Anything else",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    });
    for (path, messages) in STREAMS {
        document["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]["schema"] = stream(messages);
    }
    for operations in members(&mut document["paths"]) {
        for operation in members(operations).filter(|operation| operation.get("responses").is_some()) {
            operation["responses"]["default"] = problem.clone();
        }
    }
    document["components"]["securitySchemes"] = json!({
        "token": {"type": "http", "scheme": "bearer", "description":
            "A token of `distillery token create`. Needed once there is one, or the server listens beyond loopback or is behind \
            a proxy."},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "distillery_token", "description":
            "The same, as `POST /v1/session` sets it for the dashboard."},
    });
    // The empty one: a server without tokens on loopback needs none.
    document["security"] = json!([{"token": []}, {"cookie": []}, {}]);
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.extend(spec::schemas());
    }
    document
}

/// The messages of each stream: name and schema of the data.
const STREAMS: [(&str, &[(&str, &str)]); 3] = [
    ("/v1/changes", &[("changed", "ChangedJobs")]),
    ("/v1/stream", &[("status", "Job"), ("progress", "JobProgress"), ("deleted", "Deleted")]),
    (
        "/v1/jobs/{id}/stream",
        &[("status", "Job"), ("progress", "JobProgress"), ("event", "Event"), ("metric", "Point")],
    ),
];

/// The schema of one message of a stream, as OpenAPI describes the fields of Server-Sent Events.
fn stream(messages: &[(&str, &str)]) -> Value {
    let message = |&(name, schema): &(&str, &str)| {
        let data = json!({"type": "string", "contentMediaType": "application/json",
            "contentSchema": {"$ref": format!("#/components/schemas/{schema}")}});
        let properties = json!({"event": {"const": name}, "data": data, "id": {"type": "string"}});
        json!({"type": "object", "properties": properties, "required": ["event", "data"]})
    };
    match messages {
        [only] => message(only),
        several => json!({"oneOf": several.iter().map(message).collect::<Vec<_>>()}),
    }
}

fn members(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_object_mut().into_iter().flat_map(|object| object.values_mut())
}
