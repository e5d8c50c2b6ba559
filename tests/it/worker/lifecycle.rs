//! Starts, stops, kills and restarts of workers, servers and databases.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, Utc};
use distillery::db::embedded::Server;
use distillery::db::jobs::Change;
use distillery::db::queue::{self, DeviceCapacity};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::db::{TestDb, postgres_options};
use crate::support::http_client;
use crate::support::process::{Process, child_with_argument, children_of, read_pid, until_ended};
use crate::support::worker::{OBEDIENT, RESUMABLE, Surroundings, files_below};

#[tokio::test]
async fn a_worker_that_ends_gives_its_job_back_and_the_next_one_goes_on() {
    let it = Surroundings::new(RESUMABLE).await;
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    it.db.until_job(id, |job| job["checkpoint"]["epoch"] == 2).await;
    worker.drain().await;
    let job = it.db.job(id).await;
    assert_eq!((&job["status"], &job["attempt"]), (&json!("queued"), &json!(1)));
    let workers: i64 = sqlx::query_scalar("select count(*) from workers").fetch_one(&it.db.pool).await.unwrap();
    assert_eq!(workers, 0);

    let successor = it.start();
    it.db.until_status(id, "succeeded").await;
    successor.drain().await;
    assert_eq!(it.db.steps(id).await, [1, 11, 21]);
    assert!(it.db.messages(id).await.iter().any(|message| message.contains("resumed after epoch 2")));
}

#[tokio::test]
async fn sigterm_ends_a_training_worker_with_status_0_after_its_job_is_queued_again() {
    let it = Surroundings::new(RESUMABLE).await;
    let id = it.db.add_job(json!({})).await;
    let worker = it.start_process();
    it.db.until_job(id, |job| job["checkpoint"]["epoch"] == 2).await;
    worker.terminate().await;
    let job = it.db.job(id).await;
    assert_eq!((&job["status"], &job["worker"]), (&json!("queued"), &Value::Null));
}

#[tokio::test]
async fn a_worker_that_lost_its_job_kills_its_trainer_and_leaves_the_successors_files_alone() {
    let it = Surroundings::new(r#"echo $$ > "$here/pid"; started 0 0; point 1; exec sleep infinity"#).await;
    let worker = it.start();
    let id = it.db.add_job(json!({})).await;
    it.db.until_training(id).await;
    // Another worker of this machine has taken over, and the database says that the job has changed.
    // It may even have been given the same number.
    let theirs = ["2-theirs", "1-theirs"].map(|name| it.settings.work_dir.join(id).join(name));
    theirs.iter().for_each(|directory| fs::create_dir_all(directory).unwrap());
    it.db.set(id, "attempt = 2, worker = 'wrk_other', claim = 'theirs'").await;
    let taken = it.db.job(id).await;
    let notify = sqlx::query("select pg_notify('distillery_status', $1)").bind(id);
    notify.execute(&it.db.pool).await.unwrap();
    until_ended(read_pid(&it.file("pid"))).await;
    let refused = "select refused_writes from attempts where job_id = $1 and attempt = 1 and refused_writes > 0";
    let refused =
        async || -> Option<i64> { sqlx::query_scalar(refused).bind(id).fetch_optional(&it.db.pool).await.unwrap() };
    assert!(it.db.until(refused).await.is_some(), "no write was refused");
    worker.drain().await;
    assert_eq!(it.db.job(id).await, taken);
    let mut left: Vec<_> =
        fs::read_dir(it.settings.work_dir.join(id)).unwrap().map(|one| one.unwrap().path()).collect();
    left.sort();
    assert_eq!(left, [theirs[1].clone(), theirs[0].clone()]);
}

#[tokio::test]
async fn a_killed_worker_takes_its_trainer_along_and_another_goes_on() {
    let it = Surroundings::new(RESUMABLE).await;
    let id = it.db.add_job(json!({})).await;
    let first = it.start_process();
    it.db.until_job(id, |job| job["checkpoint"]["epoch"] == 2).await;
    first.kill().await;
    until_ended(read_pid(&it.file("pid"))).await;
    assert!(!files_below(&it.settings.work_dir).is_empty());

    let second = it.start_process();
    let job = it.db.until_status(id, "succeeded").await;
    assert_eq!(job["attempt"], 2);
    assert_eq!(it.db.steps(id).await, [1, 11, 21]);
    second.terminate().await;
    assert_eq!(files_below(&it.settings.work_dir), [""; 0]);
}

#[tokio::test]
async fn points_that_a_killed_worker_had_not_recorded_come_from_its_stored_metrics() {
    let it = Surroundings::new(RESUMABLE).await;
    let id = it.db.add_job(json!({})).await;
    let first = it.start_process();
    it.db.until_job(id, |job| job["checkpoint"]["epoch"] == 2).await;
    first.kill().await;
    // A worker that lags stores its trainer's newer state under the checkpoint that it has just heard of.
    sqlx::query("delete from metrics where step > 1").execute(&it.db.pool).await.unwrap();

    let second = it.start_process();
    it.db.until_status(id, "succeeded").await;
    let query = sqlx::query_as("select step, attempt from metrics where job_id = $1 order by id");
    let points: Vec<(i64, i32)> = query.bind(id).fetch_all(&it.db.pool).await.unwrap();
    assert_eq!(points, [(1, 1), (11, 1), (21, 2)]);
    second.terminate().await;
}

#[tokio::test]
async fn a_worker_clears_away_what_a_killed_one_left() {
    let it = Surroundings::new(OBEDIENT).await;
    let (held, cancelled) = (it.db.add_job(json!({})).await, it.db.add_job(json!({})).await);
    let mut own = Vec::new();
    for id in [held, cancelled] {
        it.db.set(id, "attempt = 1").await;
        let claim =
            queue::claim(&it.db.pool, "wrk_killed", DeviceCapacity::ONE, it.settings.lease).await.unwrap().unwrap();
        assert_eq!((claim.token.job.as_str(), claim.token.attempt), (id, 2));
        own.push(claim.token.name());
        for attempt in ["1", "1-lost", "2-lost", &claim.token.name()] {
            let directory = it.settings.work_dir.join(id).join(attempt);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("teacher"), "bytes").unwrap();
        }
        if id == cancelled {
            it.db.change(id, Change::Cancel).await;
            queue::stopped(&it.db.pool, &claim.token.write()).await.unwrap();
        }
    }
    it.start().drain().await;
    assert_eq!(files_below(&it.settings.work_dir), [format!("{held}/{}/teacher", own[0])]);
}

#[tokio::test]
async fn workers_of_two_databases_leave_each_others_attempts_in_one_data_directory_alone() {
    let trainer = r#"started 0 0; point 1; read -r < "$here/go"; [ -e "$2" ] || exit 1; finish"#;
    let it = Surroundings::new(trainer).await;
    it.make_pipe("go");
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let worker = it.start();
    it.db.until_training(id).await;
    let spec = files_below(&it.settings.work_dir).into_iter().find(|path| path.ends_with("/spec.json")).unwrap();
    let spec = it.settings.work_dir.join(spec);
    let others = Surroundings { settings: it.settings.clone(), ..Surroundings::new("finish").await };
    // Clearing away what killed workers left is the first that it does.
    others.start().drain().await;
    assert!(spec.exists());
    it.let_go("go").await;
    it.db.until_status(id, "succeeded").await;
    worker.drain().await;
    assert!(!spec.exists());
}

#[tokio::test]
async fn a_worker_and_a_server_that_start_before_their_database_wait_for_it_and_make_the_schema() {
    let it = Surroundings::on(TestDb::new().await, "started 0 0; finish");
    let data = tempfile::tempdir().unwrap();
    let options = postgres_options(data.path().to_owned());
    // The place of its socket is known only once it has run.
    let database = Server::start(&options).await.unwrap();
    let url = database.url().to_owned();
    database.stop().await;
    let start = |name: &str, arguments: &[&str]| {
        let mut command = it.command(name);
        command.args(arguments).env("DATABASE_URL", &url).stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::start(command)
    };
    let mut worker = start("worker", &["--device", "cpu"]);
    let mut server = start("serve", &["--listen", "127.0.0.1:0", "--workers", "0"]);
    let mut logs = [worker.stderr(), server.stderr()];
    for log in &mut logs {
        log.until("waiting for the database").await;
    }

    let database = Server::start(&options).await.unwrap();
    assert_eq!(database.url(), url);
    let address = server.stdout().address().await.unwrap();
    logs[0].until("ready for jobs").await;
    let workers: Value =
        http_client().build().unwrap().get(format!("{address}/v1/workers")).send().await.unwrap().json().await.unwrap();
    assert_eq!(workers["data"].as_array().unwrap().len(), 1);
    worker.terminate().await;
    server.terminate().await;
    database.stop().await;
}

#[tokio::test]
async fn a_running_job_survives_a_crash_of_the_database() {
    let data = tempfile::tempdir().unwrap();
    let options = postgres_options(data.path().to_owned());
    let mut database = Server::start(&options).await.unwrap();
    let it = Surroundings::on(
        TestDb::of(&database).await,
        &format!(
            r#"if [ -e "$here/survived" ]; then {OBEDIENT} fi
            started 0 0; for step in $(seq 1 50); do point $step; done
            read -r < "$here/crashed"; touch "$here/survived"
            for step in $(seq 51 150); do point $step; done
            say > "$here/went-on"; checkpoint 1; finish"#
        ),
    );
    it.make_pipe("crashed");
    it.make_pipe("went-on");
    let worker = it.start();
    let id = it.db.add_job(json!({})).await;
    it.db.until_training(id).await;
    kill_process(Pid::from_raw(database.pid().cast_signed()).unwrap(), Signal::QUIT).unwrap();
    database.exited().await;
    drop(database);
    it.let_go("crashed").await;
    it.until_said("went-on").await;
    let database = Server::start(&options).await.unwrap();
    let job = it.db.until_status(id, "succeeded").await;
    assert_eq!(job["attempt"], 1);
    assert_eq!(it.db.steps(id).await, (1..=150).collect::<Vec<_>>());
    // And it still hears of new ones.
    let next = it.db.add_job(json!({})).await;
    it.db.until_training(next).await;
    it.db.change(next, Change::Cancel).await;
    it.db.until_status(next, "cancelled").await;
    worker.drain().await;
    database.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_renew_its_lease_stops_its_trainer_before_the_lease_ends() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&postgres_options(data.path().to_owned())).await.unwrap();
    let trainer = r#"echo $$ > "$here/pid"; started 0 0; point 1; exec sleep infinity"#;
    let mut it = Surroundings::on(TestDb::of(&server).await, trainer);
    it.settings.lease = Duration::from_secs(4);
    let _worker = it.start();
    let id = it.db.add_job(json!({})).await;
    it.db.until_training(id).await;
    let expiry = async || -> Option<DateTime<Utc>> {
        let query = sqlx::query_scalar("select lease_expires_at from jobs where id = $1").bind(id);
        query.fetch_one(&it.db.pool).await.unwrap()
    };
    let before = expiry().await.expect("the job is held");
    // It neither ends connections nor answers them any more: every process of the server is stopped, as by a machine
    // that hangs.
    let database = Pid::from_raw(server.pid().cast_signed()).unwrap();
    // First the one that starts the others. Some of those may end meanwhile.
    kill_process(database, Signal::STOP).unwrap();
    let processes: Vec<Pid> = children_of(database).into_iter().chain([database]).collect();
    for process in &processes {
        let _ = kill_process(*process, Signal::STOP);
    }
    until_ended(read_pid(&it.file("pid"))).await;
    let ended = Utc::now();
    for process in processes {
        let _ = kill_process(process, Signal::CONT);
    }
    // A heartbeat may have come between the query and the stop.
    let end = expiry().await.map_or(before, |last| last.max(before));
    assert!(ended < end, "the trainer ended at {ended}, the lease at {end}");
}

#[tokio::test]
async fn a_server_replaces_a_worker_that_died_and_takes_everything_along_when_it_is_killed() {
    let it = Surroundings::on(TestDb::new().await, OBEDIENT);
    let start = || {
        let mut command = it.command("serve");
        command.args(["--listen", "127.0.0.1:0", "--workers", "1"]).stdout(Stdio::null()).stderr(Stdio::piped());
        Process::start(command)
    };
    let mut server = start();
    // What its workers say comes out there too.
    let mut log = server.stderr();
    log.until("ready for jobs").await;
    let first = child_with_argument(server.pid(), "worker");
    kill_process(first, Signal::KILL).unwrap();
    log.until("restarting it").await;
    log.until("ready for jobs").await;
    let left = [child_with_argument(server.pid(), "worker"), child_with_argument(server.pid(), "-D")];
    assert_ne!(left[0], first);
    server.kill().await;
    for process in left {
        until_ended(process).await;
    }

    // And it starts again on what is left, and stops in order.
    let mut server = start();
    server.stderr().until("ready for jobs").await;
    let left = [child_with_argument(server.pid(), "worker"), child_with_argument(server.pid(), "-D")];
    server.terminate().await;
    for process in left {
        until_ended(process).await;
    }
}
