//! Changes of a job's name, labels, priority and notes.

use distillery::db::jobs::Change;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Answer, Api, plain_job};

async fn patch(api: &Api, id: &str, body: &Value) -> Answer {
    api.send(api.request(Method::PATCH, &format!("/v1/jobs/{id}")).json(body)).await
}

#[tokio::test]
async fn what_is_given_changes_and_the_rest_stays() {
    let api = Api::start().await;
    let mut document = plain_job();
    document["labels"] = json!({"team": "vision", "old": "yes"});
    let posted = api.post("/v1/jobs", &document).await.expect(201);
    let id = posted["id"].as_str().unwrap();
    assert_eq!(posted["notes"], Value::Null);
    let job =
        patch(&api, id, &json!({"labels": {"old": null, "new": "1"}, "notes": "line 1\nline 2"})).await.expect(200);
    assert_eq!((&job["labels"], &job["notes"]), (&json!({"team": "vision", "new": "1"}), &json!("line 1\nline 2")));
    assert_eq!((&job["name"], &job["priority"]), (&posted["name"], &json!(0)));
    let job =
        patch(&api, id, &json!({"name": "another", "priority": 7, "notes": null, "labels": null})).await.expect(200);
    assert_eq!(job, api.get(&format!("/v1/jobs/{id}")).await.expect(200));
    assert_eq!((&job["name"], &job["priority"]), (&json!("another"), &json!(7)));
    assert_eq!((&job["labels"], &job["notes"]), (&json!({}), &Value::Null));
    // The specification says the same, but for what was trained.
    let mut spec = posted["spec"].clone();
    (spec["name"], spec["priority"], spec["labels"]) = (json!("another"), json!(7), json!({}));
    assert_eq!(job["spec"], spec);
    assert_eq!(api.get(&format!("/v1/jobs/{id}/submitted")).await.expect(200), document);
}

async fn stored_labels(api: &Api, id: &str) -> String {
    let query = sqlx::query_scalar("select labels::text from jobs where id = $1");
    query.bind(id).fetch_one(&api.db.pool).await.unwrap()
}

#[tokio::test]
async fn labels_that_another_program_stored_keep_no_job_from_being_changed() {
    let api = Api::start().await;
    for (stored, left) in [
        (r#"labels = '{"team": "vision", "runs": 3, "of": {"a": [1]}}'"#, json!({"team": "vision", "of": {"a": [1]}})),
        (r#"labels = '{"team": "vision", "of": 1e400, "runs": null}'"#, json!({"team": "vision", "of": null})),
        (r#"labels = '["team"]'"#, json!({})),
        (r#"labels = '"team"'"#, json!({})),
        ("labels = '7'", json!({})),
        ("labels = 'null'", json!({})),
    ] {
        let id = api.job().await;
        api.db.set(&id, stored).await;
        let before = stored_labels(&api, &id).await;
        let renamed = patch(&api, &id, &json!({"name": "another", "priority": 2})).await.expect(200);
        assert_eq!((&renamed["name"], &renamed["priority"]), (&json!("another"), &json!(2)), "{stored}");
        assert_eq!(stored_labels(&api, &id).await, before, "{stored}: no label was given");
        let labelled = patch(&api, &id, &json!({"labels": {"new": "1", "runs": null}})).await.expect(200);
        let mut expected = left;
        expected["new"] = json!("1");
        assert_eq!(labelled["labels"], expected, "{stored}");
        assert_eq!(labelled["spec"]["labels"], expected, "{stored}");
        let cleared = patch(&api, &id, &json!({"labels": null})).await.expect(200);
        assert_eq!(cleared["labels"], json!({}), "{stored}");
    }
}

#[tokio::test]
async fn a_specification_that_is_no_object_keeps_no_job_from_being_changed() {
    let api = Api::start().await;
    let id = api.job().await;
    for spec in ["spec = '[1]'", "spec = '\"elsewhere\"'", "spec = 'null'"] {
        api.db.set(&id, spec).await;
        let before = api.db.job(&id).await["spec"].clone();
        let job = patch(&api, &id, &json!({"name": spec})).await.expect(200);
        assert_eq!((&job["name"], &job["spec"]), (&json!(spec), &before));
    }
}

#[tokio::test]
async fn the_history_says_what_was_changed_and_nothing_if_nothing_was() {
    let api = Api::start().await;
    let id = api.job().await;
    let before = api.db.messages(&id).await.len();
    patch(&api, &id, &json!({"name": "a", "priority": 3, "labels": {"b": "c"}, "notes": "d"})).await.expect(200);
    let said = &api.db.messages(&id).await[before..];
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].starts_with("renamed from ") && said[0].ends_with(" to \"a\" on request"), "{said:?}");
    assert_eq!(
        said[1..],
        ["priority changed from 0 to 3 on request", "labels changed on request", "notes changed on request"]
    );
    for same in [json!({}), json!({"name": "a", "labels": {"absent": null}}), json!({"notes": "d", "priority": 3})] {
        patch(&api, &id, &same).await.expect(200);
    }
    assert_eq!(api.db.messages(&id).await.len(), before + 4);
}

#[tokio::test]
async fn the_queue_follows_a_new_priority() {
    let api = Api::start().await;
    let (_first, second) = (api.job().await, api.job().await);
    patch(&api, &second, &json!({"priority": 1})).await.expect(200);
    assert_eq!(api.claim().await.job, second);
}

#[tokio::test]
async fn an_ended_job_takes_names_labels_and_notes_and_one_that_succeeded_no_priority() {
    let api = Api::start().await;
    let cancelled = api.job().await;
    api.db.change(&cancelled, Change::Cancel).await;
    patch(&api, &cancelled, &json!({"priority": 5, "notes": "n"})).await.expect(200);
    let succeeded = api.job().await;
    api.publish(&api.claim().await, &[("student.safetensors", b"student")]).await;
    let job = patch(&api, &succeeded, &json!({"name": "best", "notes": "take this"})).await.expect(200);
    assert_eq!((&job["status"], &job["notes"]), (&json!("succeeded"), &json!("take this")));
    // All changes are made, or none.
    patch(&api, &succeeded, &json!({"priority": 5, "name": "no"})).await.says(409, &["it is succeeded", "priority"]);
    assert_eq!(api.get(&format!("/v1/jobs/{succeeded}")).await.expect(200)["name"], "best");
}

#[tokio::test]
async fn every_fault_is_named_and_nothing_is_changed() {
    let api = Api::start().await;
    let id = api.job().await;
    let before = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    let document = json!({
        "name": null, "priority": 1001, "labels": {"a:b": "c", "fine": null}, "notes": "bell\u{7}",
        "training": {"epochs": 1},
    });
    let problem = patch(&api, &id, &document).await.problem(422);
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    for pointer in ["/name", "/priority", "/labels", "/notes", "/training"] {
        assert!(pointers.contains(&pointer), "{pointer} in {problem}");
    }
    for (document, says) in [
        (json!({"notes": "x".repeat(10_001)}), "/notes"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "   "}), "/name"),
        (json!({"labels": {"a": 1}}), "/labels"),
        (json!({"labels": "a"}), "/labels"),
        (json!([]), "expected an object"),
    ] {
        patch(&api, &id, &document).await.says(422, &[says]);
    }
    assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.expect(200), before);
    patch(&api, "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", &json!({})).await.says(404, &["there is no job"]);
}

#[tokio::test]
async fn labels_that_would_be_too_many_together_are_refused() {
    let api = Api::start().await;
    let id = api.job().await;
    let labels = |from: u32| (from..from + 20).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>();
    patch(&api, &id, &json!({"labels": labels(0)})).await.expect(200);
    patch(&api, &id, &json!({"labels": labels(20)})).await.says(409, &["40 labels", "at most 32"]);
    patch(&api, &id, &json!({"labels": labels(10)})).await.expect(200);
}

#[tokio::test]
async fn who_follows_the_job_sees_the_change() {
    let api = Api::start().await;
    let id = api.job().await;
    let mut events = api.stream(&format!("/v1/jobs/{id}/stream"), None).await;
    events.until(|message| message.name == "status").await;
    patch(&api, &id, &json!({"name": "seen"})).await.expect(200);
    events.until(|message| message.name == "status" && message.data["name"] == "seen").await;
}
