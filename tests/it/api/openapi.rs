//! Promise: the OpenAPI document describes every operation.

use std::collections::BTreeSet;

use crate::support::api::{Api, checkpoint};
use reqwest::Method;
use serde_json::{Value, json};

/// Every operation of the API.
const ROUTES: [&str; 62] = [
    "POST /v1/jobs",
    "GET /v1/jobs",
    "GET /v1/jobs/{id}",
    "PATCH /v1/jobs/{id}",
    "DELETE /v1/jobs/{id}",
    "POST /v1/jobs/{id}/cancel",
    "POST /v1/jobs/{id}/pause",
    "POST /v1/jobs/{id}/resume",
    "POST /v1/jobs/{id}/retry",
    "GET /v1/jobs/{id}/submitted",
    "GET /v1/jobs/{id}/attempts",
    "GET /v1/jobs/{id}/metrics",
    "GET /v1/jobs/{id}/tensorboard",
    "GET /v1/jobs/{id}/events",
    "GET /v1/jobs/{id}/updates",
    "GET /v1/jobs/{id}/stream",
    "GET /v1/stream",
    "GET /v1/summaries",
    "GET /v1/labels",
    "GET /v1/pareto",
    "GET /v1/groups",
    "GET /v1/settings",
    "GET /v1/changes",
    "GET /v1/jobs/{id}/student",
    "GET /v1/jobs/{id}/webhooks",
    "GET /v1/jobs/{id}/artifacts",
    "GET /v1/jobs/{id}/artifacts/{name}",
    "GET /v1/jobs/{id}/predictions",
    "GET /v1/jobs/{id}/predictions/summary",
    "POST /v1/sweeps",
    "GET /v1/sweeps",
    "GET /v1/sweeps/{id}",
    "DELETE /v1/sweeps/{id}",
    "POST /v1/sweeps/{id}/pause",
    "POST /v1/sweeps/{id}/resume",
    "POST /v1/sweeps/{id}/cancel",
    "GET /v1/sweeps/{id}/submitted",
    "GET /v1/sweeps/{id}/webhooks",
    "PUT /v1/checkpoints",
    "POST /v1/checkpoints",
    "GET /v1/checkpoints",
    "GET /v1/checkpoints/{id}",
    "DELETE /v1/checkpoints/{id}",
    "GET /v1/architectures",
    "GET /v1/datasets",
    "PUT /v1/datasets/{name}",
    "GET /v1/datasets/{name}",
    "DELETE /v1/datasets/{name}",
    "GET /v1/datasets/{name}/images",
    "GET /v1/datasets/{name}/uploads/{upload}",
    "DELETE /v1/datasets/{name}/uploads/{upload}",
    "GET /v1/datasets/{name}/shards/{split}",
    "DELETE /v1/datasets/{name}/shards/{split}",
    "GET /v1/webhooks",
    "GET /v1/workers",
    "GET /v1/system",
    "GET /v1/session",
    "POST /v1/session",
    "DELETE /v1/session",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
];

/// Every `$ref` of a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get("$ref") {
                found.insert(target.clone());
            }
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_openapi_document_describes_every_route() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            found.insert(format!("{} {path}", method.to_uppercase()));
            assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{method} {path}");
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}");
        }
    }
    // Two types of the same name would overwrite each other's schema.
    for (schema, value) in [("CheckpointFormat", "torch_zip"), ("DatasetFormat", "parquet"), ("EventKind", "compacted")]
    {
        let schema = document["components"]["schemas"][schema].to_string();
        assert!(schema.contains(&format!("\"{value}\"")), "{schema}");
    }
    assert_eq!(found, ROUTES.into_iter().map(str::to_owned).collect());
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    for target in used {
        assert!(document.pointer(&target[1..]).is_some(), "{target} is not there");
    }
    // Every operation exists, even if it answers 404 here.
    for path in ROUTES {
        let (method, path) = path.split_once(' ').unwrap();
        let path =
            path.replace("{id}", "job_00000000000000000000000000").replace("{name}", "x").replace("{upload}", "x");
        if ["/v1/stream", "/v1/changes"].contains(&path.as_str()) {
            continue;
        }
        let answer = api.send(api.request(method.parse().unwrap(), &path)).await;
        assert!(answer.status != 405 && !answer.status.is_server_error(), "{method} {path}: {}", answer.status);
    }
}

#[tokio::test]
async fn the_request_schema_requires_less_than_the_response_schema() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.expect(200);
    let schemas = &document["components"]["schemas"];
    let body = &document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(body, "#/components/schemas/JobSpecRequest");
    assert_eq!(schemas["JobSpecRequest"]["required"], json!(["student", "dataset"]));
    assert_eq!(schemas["JobSpecRequest"]["additionalProperties"], false);
    assert!(schemas["DatasetSpecRequest"]["properties"].get("path").is_none());
    assert!(schemas["TrainingSpecRequest"].get("required").is_none());
    assert!(schemas["OptimizerSpecRequest"].get("oneOf").is_none());
    assert!(schemas["JobSpec"]["required"].as_array().unwrap().contains(&json!("training")));
    // A job has exactly the fields that the document lists.
    let id = api.job().await;
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    let listed: BTreeSet<_> = schemas["Job"]["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(job.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), listed);
    let checkpoint = api.upload("", checkpoint("resnet8", 3)).await.expect(201);
    let listed: BTreeSet<_> = schemas["Checkpoint"]["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(checkpoint.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), listed);
}

#[tokio::test]
async fn the_swagger_page_loads_nothing_from_other_hosts() {
    let api = Api::start().await;
    let redirect = api.get("/docs").await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (308, "/docs/"));
    let page = api.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("default-src 'self'"));
    let html = page.text();
    assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
    for file in html.split('"').filter_map(|part| part.strip_prefix("./")) {
        assert_eq!(api.get(&format!("/docs/{file}")).await.status, 200, "{file}");
    }
    assert!(api.get("/docs/swagger-initializer.js").await.text().contains("/openapi.json"));
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again_and_the_rest_is_compressed() {
    let api = Api::start().await;
    for path in ["/docs/", "/docs/swagger-ui-bundle.js", "/openapi.json", "/", "/app.css"] {
        let answer = api.get(path).await;
        let etag = answer.header("etag").to_owned();
        assert!(etag.starts_with("W/\""), "{path}: {etag}");
        let again = api.request(Method::GET, path).header("if-none-match", &etag);
        let again = api.send(again).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
        let other = api.request(Method::GET, path).header("if-none-match", "W/\"other\"");
        assert_eq!(api.send(other).await.status, 200, "{path}");
        let compressed = api.send(api.request(Method::GET, path).header("accept-encoding", "gzip")).await;
        assert_eq!(compressed.header("content-encoding"), "gzip", "{path}");
        assert!(compressed.body.len() <= answer.body.len(), "{path}");
    }
}
