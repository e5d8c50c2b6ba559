//! Promise: of changes that come at the same time none waits for ever for another, and none fails because of it.

use distillery::db::queue;
use distillery::db::workers::{self, NewWorker, Usage};
use distillery::protocol::{ErrorClass, Failure};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::JoinHandle;

use crate::support::PATIENCE;
use crate::support::api::{Api, checkpoint, plain_job, student_job};
use crate::support::archives::{pets, zip};
use crate::support::db::{TestDb, connection};

/// A transaction that holds up the others until it ends.
struct Blocker(PgConnection);

impl Blocker {
    async fn begin(db: &TestDb, lock: &'static str) -> Self {
        let mut connection = connection(&db.url).await;
        sqlx::raw_sql("begin").execute(&mut connection).await.unwrap();
        sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
        Self(connection)
    }

    async fn end(mut self) {
        sqlx::raw_sql("commit").execute(&mut self.0).await.unwrap();
    }
}

/// Begins a change, and returns once that many sessions wait for a lock, or it is done.
async fn begin<Outcome: Send + 'static>(
    db: &TestDb,
    waiting: i64,
    change: impl Future<Output = Outcome> + Send + 'static,
) -> JoinHandle<Outcome> {
    let change = tokio::spawn(change);
    let count = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let waits = async {
        loop {
            let found: i64 = sqlx::query_scalar(count).fetch_one(&db.pool).await.unwrap();
            if found >= waiting || change.is_finished() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("it waits or ends");
    change
}

async fn status(change: JoinHandle<reqwest::Result<Response>>) -> u16 {
    change.await.expect("no panic").expect("the server answers").status().as_u16()
}

fn id(value: &Value) -> &str {
    value["id"].as_str().expect("an id")
}

/// A job that has succeeded.
async fn trained(api: &Api) -> String {
    let token = api.claim().await;
    api.publish(&token, &[("student.safetensors", b"student")]).await;
    token.job
}

#[tokio::test]
async fn a_teacher_is_deleted_while_its_student_is_amended() {
    let api = Api::start().await;
    let teacher = api.job().await;
    trained(&api).await;
    let student = student_job(json!({"architecture": "resnet8", "job": teacher}));
    let student = api.post("/v1/jobs", &student).await.expect(201);
    let path = format!("/v1/jobs/{}", id(&student));
    api.ask(&format!("{path}/cancel")).await.expect(202);
    let blocker = Blocker::begin(&api.db, "lock table events in exclusive mode").await;
    let amendment = api.request(Method::PATCH, &path).json(&json!({"notes": "read me"})).send();
    let amendment = begin(&api.db, 1, amendment).await;
    let deletion = api.request(Method::DELETE, &format!("/v1/jobs/{teacher}")).send();
    let deletion = begin(&api.db, 2, deletion).await;
    blocker.end().await;
    assert_eq!((status(amendment).await, status(deletion).await), (200, 204));
}

#[tokio::test]
async fn a_data_set_is_deleted_while_a_job_that_used_it_is_amended() {
    let api = Api::start().await;
    let dataset = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    let mut job = plain_job();
    job["dataset"] = json!({"name": "pets"});
    let job = api.post("/v1/jobs", &job).await.expect(201);
    let path = format!("/v1/jobs/{}", id(&job));
    api.ask(&format!("{path}/cancel")).await.expect(202);
    let blocker = Blocker::begin(&api.db, "lock table events in exclusive mode").await;
    let amendment = api.request(Method::PATCH, &path).json(&json!({"notes": "read me"})).send();
    let amendment = begin(&api.db, 1, amendment).await;
    let deletion = api.request(Method::DELETE, &format!("/v1/datasets/{}", id(&dataset))).send();
    let deletion = begin(&api.db, 2, deletion).await;
    blocker.end().await;
    assert_eq!((status(amendment).await, status(deletion).await), (200, 204));
}

#[tokio::test]
async fn a_sweep_is_deleted_together_with_the_checkpoint_that_its_jobs_used() {
    let api = Api::start().await;
    let teacher = api.upload("?architecture=resnet20", checkpoint("resnet20", 10)).await.expect(201);
    let document = json!({
        "name": "rates",
        "base": student_job(json!({"architecture": "resnet20", "checkpoint": id(&teacher)})),
        "axes": {"/training/optimizer/learning_rate": [0.1, 0.2]},
    });
    let sweep = api.post("/v1/sweeps", &document).await.expect(201);
    let path = format!("/v1/sweeps/{}", id(&sweep));
    api.ask(&format!("{path}/cancel")).await.expect(202);
    // The first job's row is found last, as after a retry.
    let moved = "delete from job_checkpoints where job_id = (select min(job_id) from job_checkpoints) returning job_id";
    let job: String = sqlx::query_scalar(moved).fetch_one(&api.db.pool).await.unwrap();
    let insert = "insert into job_checkpoints (job_id, checkpoint_id) values ($1, $2)";
    sqlx::query(insert).bind(job).bind(id(&teacher)).execute(&api.db.pool).await.unwrap();
    let blocker = Blocker::begin(&api.db, "lock table file_deletions in exclusive mode").await;
    let of_sweep = begin(&api.db, 1, api.request(Method::DELETE, &path).send()).await;
    let of_checkpoint = api.request(Method::DELETE, &format!("/v1/checkpoints/{}", id(&teacher))).send();
    let of_checkpoint = begin(&api.db, 2, of_checkpoint).await;
    blocker.end().await;
    assert_eq!((status(of_sweep).await, status(of_checkpoint).await), (204, 204));
}

#[tokio::test]
async fn a_sweep_over_teachers_is_posted_while_the_sweep_that_trained_them_is_deleted() {
    let api = Api::start().await;
    let rates = json!({"/training/optimizer/learning_rate": [0.1, 0.2]});
    let document = json!({"name": "teachers", "base": plain_job(), "axes": rates});
    let teachers = api.post("/v1/sweeps", &document).await.expect(201);
    let [first, second] = [trained(&api).await, trained(&api).await];
    assert!(first < second);
    let document = json!({
        "name": "students",
        "base": student_job(json!({"architecture": "resnet8", "job": first})),
        "axes": {"/teacher/job": [second, first]},
    });
    let blocker = Blocker::begin(&api.db, "lock table events in exclusive mode").await;
    let posted = begin(&api.db, 1, api.request(Method::POST, "/v1/sweeps").json(&document).send()).await;
    let deletion = api.request(Method::DELETE, &format!("/v1/sweeps/{}", id(&teachers))).send();
    let deletion = begin(&api.db, 2, deletion).await;
    blocker.end().await;
    assert_eq!((status(posted).await, status(deletion).await), (201, 409), "the new jobs need their teachers");
}

#[tokio::test]
async fn a_worker_leaves_while_another_takes_it_for_dead() {
    let db = TestDb::new().await;
    for worker in ["wrk_GONE", "wrk_LATE"] {
        let job = db.add_job(json!({})).await;
        let minute = std::time::Duration::from_secs(60);
        let claimed = queue::claim(&db.pool, worker, queue::DeviceCapacity::ONE, minute).await.unwrap();
        let token = claimed.expect("a job is queued").token;
        assert_eq!(token.job, job);
        // So neither gets its job again.
        let failure = Failure { class: ErrorClass::Machine, message: "no space left on device".into() };
        queue::fail(&db.pool, &token.write(), &failure).await.unwrap().expect("it held the job");
        db.set(job, "run_after = now() + interval '1 hour'").await;
    }
    let late = NewWorker {
        id: "wrk_LATE".into(),
        name: "late".into(),
        device: "cpu".into(),
        devices: 1,
        memory_bytes: None,
        usage: Usage::default(),
        abilities: None,
    };
    workers::register(&db.pool, &late).await.unwrap();
    let silence = "update workers set heartbeat_at = now() - interval '1 hour'";
    sqlx::query(silence).execute(&db.pool).await.unwrap();
    let blocker = Blocker::begin(&db, "select from declined where worker = 'wrk_GONE' for update").await;
    let pool = db.pool.clone();
    let rescue = begin(&db, 1, async move { queue::rescue_expired(&pool).await }).await;
    let pool = db.pool.clone();
    let leave = begin(&db, 2, async move { workers::forget(&pool, "wrk_LATE").await }).await;
    blocker.end().await;
    rescue.await.unwrap().unwrap();
    leave.await.unwrap().unwrap();
    // What was locked is left to the next one.
    queue::rescue_expired(&db.pool).await.unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from declined").fetch_one(&db.pool).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_deletion_that_the_database_ends_to_break_a_deadlock_is_tried_again() {
    let api = Api::start().await;
    let job = api.job().await;
    let rates = json!({"/training/optimizer/learning_rate": [0.1, 0.2]});
    let document = json!({"name": "rates", "base": plain_job(), "axes": rates});
    let sweep = api.post("/v1/sweeps", &document).await.expect(201);
    for path in [format!("/v1/jobs/{job}"), format!("/v1/sweeps/{}", id(&sweep))] {
        api.ask(&format!("{path}/cancel")).await.expect(202);
    }
    let checkpoint = api.upload("?architecture=resnet20", checkpoint("resnet20", 10)).await.expect(201);
    let dataset = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    // A sequence is not rolled back.
    let once = "create sequence deadlocks;
        create function deadlock() returns trigger language plpgsql as $$
            begin
                if nextval('deadlocks') = 1 then
                    raise exception 'deadlock detected' using errcode = '40P01';
                end if;
                return old;
            end
        $$";
    sqlx::raw_sql(once).execute(&api.db.pool).await.unwrap();
    for (table, path) in [
        ("jobs", format!("/v1/jobs/{job}")),
        ("sweeps", format!("/v1/sweeps/{}", id(&sweep))),
        ("checkpoints", format!("/v1/checkpoints/{}", id(&checkpoint))),
        ("datasets", format!("/v1/datasets/{}", id(&dataset))),
    ] {
        let trigger = format!(
            "select setval('deadlocks', 1, false);
             create trigger deadlock before delete on {table} for each row execute function deadlock()"
        );
        sqlx::raw_sql(AssertSqlSafe(trigger)).execute(&api.db.pool).await.unwrap();
        let deleted = api.request(Method::DELETE, &path).send().await.expect("the server answers");
        assert_eq!(deleted.status(), 204, "{table}");
        let times: i64 = sqlx::query_scalar("select last_value from deadlocks").fetch_one(&api.db.pool).await.unwrap();
        assert!(times > 1, "{table}: {times}");
    }
}
