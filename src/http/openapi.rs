//! `/openapi.json` and its page, `/docs`.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use super::AppState;
use super::error::{ApiError, Problem};
use super::v1::changes::ChangedJobs;
use super::v1::stream::{Deleted, JobProgress};
use crate::db::metrics::Point;

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
        (name = "artifacts", description = "Take the student"),
        (name = "checkpoints", description = "Give a teacher"),
        (name = "server", description = "What the server has and how it is")
    ),
    components(schemas(Problem, Point, Deleted, JobProgress, ChangedJobs))
)]
struct Base;

/// The document without its paths.
pub fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// The document and its page.
pub fn routes(document: utoipa::openapi::OpenApi) -> Router<AppState> {
    let document = Arc::new(complete(document));
    Router::new()
        .route("/openapi.json", get(async move || Json(Value::clone(&document))))
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async || page("")))
        .route("/docs/{*file}", get(async |Path(file): Path<String>| page(&file)))
}

fn page(file: &str) -> Result<Response, ApiError> {
    static CONFIG: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from("/openapi.json").use_base_layout().try_it_out_enabled(true)));
    let found = utoipa_swagger_ui::serve(file, CONFIG.clone()).map_err(|error| anyhow::anyhow!("{error}"))?;
    let found = found.ok_or_else(|| ApiError::not_found("there is no such page"))?;
    let headers = [
        (CONTENT_TYPE, found.content_type),
        (CONTENT_SECURITY_POLICY, DOCS_POLICY.to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    let mut response = (headers, found.bytes.into_owned()).into_response();
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
    for operations in members(&mut document["paths"]) {
        for operation in members(operations).filter(|operation| operation.get("responses").is_some()) {
            operation["responses"]["default"] = problem.clone();
        }
    }
    document["components"]["securitySchemes"] = json!({
        "token": {"type": "http", "scheme": "bearer", "description":
            "A token of `distillery token create`. Needed once there is one, or the server listens beyond loopback."},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "distillery_token", "description":
            "The same, as `POST /v1/session` sets it for the dashboard."},
    });
    // The empty one: a server without tokens on loopback needs none.
    document["security"] = json!([{"token": []}, {"cookie": []}, {}]);
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        let request = request_schemas(schemas);
        schemas.extend(request);
    }
    loosen(&mut document["paths"]["/v1/jobs"]["post"]["requestBody"]);
    document
}

fn members(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_object_mut().into_iter().flat_map(|object| object.values_mut())
}

/// The objects of a specification, which are complete in an answer, with what a request cannot leave out.
const OBJECTS: [(&str, &[&str]); 9] = [
    ("JobSpec", &["student", "dataset"]),
    ("TeacherSpec", &[]),
    ("StudentSpec", &["architecture"]),
    ("DatasetSpec", &["name"]),
    ("DistillationSpec", &[]),
    ("Weights", &[]),
    ("TrainingSpec", &[]),
    ("OptimizerSpec", &[]),
    ("ScheduleSpec", &[]),
];

fn request_schemas(schemas: &Map<String, Value>) -> Map<String, Value> {
    let mut requests = Map::new();
    for (name, required) in OBJECTS {
        let mut schema = schemas[name].clone();
        loosen(&mut schema);
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        requests.insert(format!("{name}Request"), schema);
    }
    if let Some(properties) = requests["DatasetSpecRequest"]["properties"].as_object_mut() {
        // For the command line only.
        properties.remove("path");
    }
    requests["JobSpecRequest"]["example"] = json!({
        "teacher": {"architecture": "resnet32x4", "checkpoint": "ckpt_2c26b46b68ffc68ff99b453c1d304134"},
        "student": {"architecture": "shufflenet_v1"},
        "dataset": {"name": "cifar100"},
    });
    requests
}

/// Requires nothing, and refers to objects that require nothing.
fn loosen(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") {
                object.remove("required");
                object.insert("additionalProperties".into(), json!(false));
            }
            // Without the field that tells them apart, several may match.
            if let Some(variants) = object.remove("oneOf") {
                object.insert("anyOf".into(), variants);
            }
            if let Some(Value::String(target)) = object.get_mut("$ref")
                && OBJECTS.iter().any(|(name, _)| target.strip_prefix("#/components/schemas/") == Some(name))
            {
                target.push_str("Request");
            }
            object.values_mut().for_each(loosen);
        }
        Value::Array(list) => list.iter_mut().for_each(loosen),
        _ => {}
    }
}
