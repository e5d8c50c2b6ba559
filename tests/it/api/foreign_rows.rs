//! Promise: a job of which another program stored something in another form keeps nothing else from being read.

use distillery::db::queue;
use distillery::db::workers::{self, NewWorker, Usage};
use distillery::protocol::Started;
use serde_json::{Value, json};

use crate::support::api::{Api, plain_job, student_job};

/// What may be where this program stores a number that is at least 0.
const FORMS: [&str; 8] = ["\"fast\"", "1e400", "-1e400", "{\"mean\": 1}", "[1]", "null", "true", "\"\""];

/// The routes that read jobs.
const ROUTES: [&str; 28] = [
    "/metrics",
    "/v1/groups?by=/training/epochs&by=method",
    "/v1/jobs",
    "/v1/labels",
    "/v1/pareto",
    "/v1/settings",
    "/v1/summaries",
    "/v1/summaries?column=/training/epochs",
    "/v1/summaries?sort=name",
    "/v1/summaries?sort=status",
    "/v1/summaries?sort=method",
    "/v1/summaries?sort=pair",
    "/v1/summaries?sort=progress",
    "/v1/summaries?sort=progress&order=asc",
    "/v1/summaries?sort=best_top1",
    "/v1/summaries?sort=gain",
    "/v1/summaries?sort=eta",
    "/v1/summaries?sort=eta&order=asc",
    "/v1/summaries?sort=worker",
    "/v1/system",
    "/v1/workers",
    "/v1/jobs/ID",
    "/v1/jobs/ID/attempts",
    "/v1/jobs/ID/events",
    "/v1/jobs/ID/metrics",
    "/v1/jobs/ID/artifacts",
    "/v1/summaries?id=ID",
    "/v1/jobs/ID/submitted",
];

/// A job that a registered worker runs, a student of it that waits, and another that waits for its turn.
async fn running(api: &Api) -> (String, [String; 2]) {
    let worker = NewWorker {
        id: "wrk_TEST".into(),
        name: "host".into(),
        device: "cpu".into(),
        devices: 1,
        memory_bytes: None,
        usage: Usage::default(),
        abilities: None,
    };
    workers::register(&api.db.pool, &worker).await.unwrap();
    let job = api.job().await;
    let token = api.claim().await;
    let started = Started {
        device: "cpu".into(),
        precision: "float32".into(),
        threads: 1,
        train_images: 4,
        eval_images: 4,
        classes: 10,
        steps_per_epoch: 1,
        epochs: 240,
        resumed_epochs: 0,
        resumed_step: 0,
    };
    assert!(queue::started(&api.db.pool, &token.write(), &started).await.unwrap());
    let student = student_job(json!({"architecture": "resnet8", "job": job}));
    let student = api.post("/v1/jobs", &student).await.expect(201)["id"].as_str().unwrap().to_owned();
    (job, [student, api.job().await])
}

/// Asks all routes about all jobs and about this one.
async fn read_everything(api: &Api, job: &str, form: &str) {
    for route in ROUTES {
        let path = route.replace("ID", job);
        let answer = api.get(&path).await;
        assert_eq!(answer.status, 200, "{path} with {form}: {}", answer.text());
    }
    let answer = api.post("/v1/jobs?dry_run=true", &plain_job()).await;
    assert_eq!(answer.status, 200, "a dry run with {form}: {}", answer.text());
}

async fn set(api: &Api, job: &str, assignments: &'static str, form: &str) {
    let update = sqlx::AssertSqlSafe(format!("update jobs set {assignments} where id = $1"));
    sqlx::query(update).bind(job).bind(form).execute(&api.db.pool).await.unwrap();
}

/// The jobs of a list, in its order.
async fn listed(api: &Api, path: &str) -> Vec<String> {
    let list = api.get(path).await.expect(200);
    list["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn progress_of_another_form_counts_as_none() {
    let api = Api::start().await;
    let (job, [student, next]) = running(&api).await;
    for form in FORMS {
        set(
            &api,
            &job,
            "progress = jsonb_build_object('fraction', $2::text::jsonb, 'eta_seconds', $2::text::jsonb,
                'images_per_second', $2::text::jsonb)",
            form,
        )
        .await;
        read_everything(&api, &job, form).await;
        for sort in ["progress", "eta"] {
            for order in ["asc", "desc"] {
                let path = format!("/v1/summaries?sort={sort}&order={order}");
                let newest_first = [&next, &student, &job].map(String::clone);
                assert_eq!(listed(&api, &path).await, newest_first, "{form}: none of them has a {sort}");
            }
        }
        let system = api.get("/v1/system").await.expect(200);
        assert_eq!(system["queue"]["images_per_second"], 0.0, "{form}");
        let metrics = api.get("/metrics").await.text();
        assert!(metrics.contains("distillery_training_images_per_second 0\n"), "{form}: {metrics}");
        let dry = api.post("/v1/jobs?dry_run=true", &plain_job()).await.expect(200);
        assert_eq!(dry["time"]["device"], Value::Null, "{form}: nothing was measured");
        let waits = api.get(&format!("/v1/summaries?id={student}")).await.expect(200)["data"][0]["waiting"].clone();
        assert_eq!((&waits["reason"], &waits["starts_in_seconds"]), (&json!("teacher"), &Value::Null), "{form}");
    }
    for form in ["\"half\"", "[1, 2]", "0.5", "null", "{}", "{\"epoch\": [1e400]}"] {
        set(&api, &job, "progress = $2::text::jsonb", form).await;
        read_everything(&api, &job, form).await;
    }
}

#[tokio::test]
async fn progress_of_the_known_form_counts_beside_a_job_of_another() {
    let api = Api::start().await;
    let (job, [_, other]) = running(&api).await;
    set(&api, &job, "progress = jsonb_build_object('images_per_second', $2::text::jsonb)", "1e400").await;
    let known = r#"{"fraction": 0.5, "images_per_second": 50.0, "eta_seconds": 9.0}"#;
    let running = "progress = $2::text::jsonb, status = 'running', lease_expires_at = now() + interval '1 hour'";
    set(&api, &other, running, known).await;
    assert_eq!(listed(&api, "/v1/summaries?sort=progress&order=desc").await[0], other);
    assert_eq!(listed(&api, "/v1/summaries?sort=eta&order=asc").await[0], other);
    assert_eq!(api.get("/v1/system").await.expect(200)["queue"]["images_per_second"], 50.0);
}

#[tokio::test]
async fn results_checkpoints_and_labels_of_another_form_are_set_aside() {
    let api = Api::start().await;
    let (job, _) = running(&api).await;
    let finished = api.job().await;
    for form in FORMS.into_iter().chain(["0.5", "1e18"]) {
        set(
            &api,
            &job,
            "checkpoint = jsonb_build_object('size_bytes', $2::text::jsonb, 'epoch', $2::text::jsonb),
                teacher = jsonb_build_object('top1', $2::text::jsonb),
                labels = jsonb_build_object('team', $2::text::jsonb)",
            form,
        )
        .await;
        set(
            &api,
            &finished,
            "status = 'succeeded', finished_at = now(), best_top1 = 70,
                spec = jsonb_set(spec, '{training,epochs}', $2::text::jsonb),
                error = jsonb_build_object('class', $2::text::jsonb),
                result = jsonb_build_object('best_top1', $2::text::jsonb, 'teacher_top1', $2::text::jsonb, 'student',
                    jsonb_build_object('parameters', $2::text::jsonb, 'size_bytes', $2::text::jsonb))",
            form,
        )
        .await;
        read_everything(&api, &job, form).await;
        read_everything(&api, &finished, form).await;
        assert_eq!(api.get("/v1/pareto").await.expect(200)["total"], 0, "{form}");
    }
    set(&api, &job, "labels = $2::text::jsonb", "[\"team\"]").await;
    read_everything(&api, &job, "a list of labels").await;
}

#[tokio::test]
async fn bytes_of_states_and_rates_near_the_end_of_their_range_are_added_all_the_same() {
    let api = Api::start().await;
    let (job, [student, next]) = running(&api).await;
    for id in [&job, &student, &next] {
        set(&api, id, "checkpoint = jsonb_build_object('size_bytes', $2::text::jsonb)", "999999999999999999").await;
        let running = "progress = jsonb_build_object('images_per_second', $2::text::jsonb), status = 'running',
            lease_expires_at = now() + interval '1 hour'";
        set(&api, id, running, "1e308").await;
    }
    let system = api.get("/v1/system").await.expect(200);
    assert_eq!(system["queue"]["images_per_second"], 0.0, "no such rate is in range");
    read_everything(&api, &job, "large numbers").await;
}

#[tokio::test]
async fn documents_that_are_nested_too_deeply_are_set_aside() {
    let api = Api::start().await;
    let (job, _) = running(&api).await;
    for column in ["progress", "teacher", "result", "error", "checkpoint", "labels", "spec"] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}[]{}", open.repeat(200), close.repeat(200));
            let update = sqlx::AssertSqlSafe(format!("update jobs set {column} = $2::text::jsonb where id = $1"));
            sqlx::query(update).bind(&job).bind(&deep).execute(&api.db.pool).await.unwrap();
            read_everything(&api, &job, column).await;
        }
    }
    let update = "update events set data = $2::text::jsonb where job_id = $1";
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    sqlx::query(update).bind(&job).bind(&deep).execute(&api.db.pool).await.unwrap();
    read_everything(&api, &job, "events").await;
}

#[tokio::test]
async fn a_job_that_a_person_holds_for_ever_is_listed_with_the_last_time_that_programs_know() {
    let api = Api::start().await;
    let (job, [student, next]) = running(&api).await;
    let last = "9999-12-31T23:59:59Z";
    set(&api, &next, "run_after = $2::text::timestamptz", "infinity").await;
    read_everything(&api, &next, "run_after").await;
    let waits = api.get(&format!("/v1/summaries?id={next}")).await.expect(200)["data"][0]["waiting"].clone();
    assert_eq!(waits["reason"], "backoff");
    assert!(waits["detail"].as_str().unwrap().contains("9999-12-31"), "{waits}");
    assert!(queue::until_next(&api.db.pool).await.unwrap().is_some());
    set(&api, &next, "finished_at = $2::text::timestamptz, status = 'cancelled'", "infinity").await;
    read_everything(&api, &job, "finished_at").await;
    assert_eq!(api.get(&format!("/v1/jobs/{next}")).await.expect(200)["finished_at"], last);
    set(&api, &student, "started_at = $2::text::timestamptz", "-infinity").await;
    read_everything(&api, &student, "started_at").await;
    // A message that is never sent again.
    let message = "insert into webhook_messages (id, job_id, webhook, type, body, next_attempt_at)
        values ('msg_1', $1, 'hook', 'job.cancelled', '{}', 'infinity')";
    sqlx::query(message).bind(&next).execute(&api.db.pool).await.unwrap();
    let messages = api.get(&format!("/v1/jobs/{next}/webhooks")).await.expect(200);
    assert_eq!(messages["data"][0]["next_attempt_at"], last);
}
