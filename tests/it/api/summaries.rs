//! Promise: the list of jobs filters, sorts and compares jobs, and reports which of them change.

use crate::support::api::{Api, Message, outcome, plain_job, student_job};
use chrono::Utc;
use distillery::db::queue::{self, FencingToken, ReportBatch};
use distillery::protocol::{Outcome, Point, Progress, Started};
use serde_json::{Value, json};

/// Posts a job with these changes at JSON pointers below it.
async fn post(api: &Api, mut job: Value, changes: &[(&str, Value)]) -> String {
    for (path, value) in changes {
        let mut place = &mut job;
        for key in path.split('.') {
            place = &mut place[key];
        }
        *place = value.clone();
    }
    api.post("/v1/jobs", &job).await.expect(201)["id"].as_str().unwrap().to_owned()
}

/// Posts a job that is claimed at once and ends with this accuracy.
async fn trained(api: &Api, job: Value, changes: &[(&str, Value)], best_top1: f64) -> String {
    let id = post(api, job, changes).await;
    let token = api.claim().await;
    assert_eq!(token.job, id);
    let outcome = Outcome { best_top1, ..outcome() };
    assert!(queue::publish(&api.db.pool, &token.write(), &outcome, &[]).await.unwrap());
    id
}

async fn list(api: &Api, query: &str) -> Value {
    api.get(&format!("/v1/summaries{query}")).await.expect(200)
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect()
}

async fn evaluate(api: &Api, token: &FencingToken, evaluations: &[(u64, f64)]) {
    let point =
        |&(step, value): &(u64, f64)| Point { name: "eval/top1".into(), step, epoch: 1.0, time: Utc::now(), value };
    let batch = ReportBatch { points: evaluations.iter().map(point).collect(), ..ReportBatch::default() };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
}

#[tokio::test]
async fn a_list_has_pages_and_counts_every_status() {
    let api = Api::start().await;
    let mut posted = Vec::new();
    for _ in 0..5 {
        posted.push(api.job().await);
    }
    posted.reverse();
    api.ask(&format!("/v1/jobs/{}/cancel", posted[0])).await.expect(202);
    let all = list(&api, "").await;
    assert_eq!(ids(&all), posted);
    assert_eq!(all["total"], 5);
    assert_eq!((&all["statuses"]["queued"], &all["statuses"]["cancelled"]), (&json!(4), &json!(1)));
    assert_eq!(all["statuses"]["running"], 0);
    assert_eq!(ids(&list(&api, "?offset=1&limit=2").await), posted[1..3]);
    assert_eq!(ids(&list(&api, "?order=asc&limit=1").await), posted[4..]);
    let queued = list(&api, "?status=queued&offset=3").await;
    assert_eq!(ids(&queued), posted[4..]);
    assert_eq!((&queued["total"], &queued["statuses"]["cancelled"]), (&json!(4), &json!(1)));
    assert_eq!(list(&api, "?offset=5").await["data"], json!([]));
    let some = list(&api, &format!("?id={}&id={}&id=job_00000000000000000000000000", posted[3], posted[0])).await;
    assert_eq!(ids(&some), [posted[0].as_str(), posted[3].as_str()]);
}

#[tokio::test]
async fn every_word_of_a_search_must_occur_and_none_is_a_pattern() {
    let api = Api::start().await;
    let one =
        post(&api, plain_job(), &[("name", json!("Ablation 50%_x")), ("labels", json!({"team": "vision"}))]).await;
    let two = post(&api, plain_job(), &[("name", json!("ablation 50 x"))]).await;
    for (q, found) in [
        ("ablation", vec![&two, &one]),
        ("ABLATION+resnet8", vec![&two, &one]),
        ("ablation+resnet20", vec![]),
        ("vision", vec![&one]),
        ("50%25_", vec![&one]),
        ("%25", vec![&one]),
        ("%5C", vec![]),
        ("++none++ten+", vec![&two, &one]),
        (&two[10..], vec![&two]),
    ] {
        assert_eq!(ids(&list(&api, &format!("?q={q}")).await), found, "{q}");
    }
    assert_eq!(ids(&list(&api, "?label=team:vision&q=ablation").await), [one.as_str()]);
    let none = list(&api, "?label=team:vision&label=team:sound").await;
    assert_eq!((&none["data"], &none["total"], &none["statuses"]["queued"]), (&json!([]), &json!(0), &json!(0)));
}

#[tokio::test]
async fn a_list_is_sorted_by_each_column_with_the_unknown_last() {
    let api = Api::start().await;
    let done = trained(&api, plain_job(), &[("name", json!("b"))], 60.0).await;
    let better = trained(&api, plain_job(), &[("name", json!("C"))], 70.0).await;
    let running = post(&api, plain_job(), &[("name", json!("a"))]).await;
    let token = api.claim().await;
    let progress =
        Progress { epoch: 1, epochs: 2, step: 1, steps: 4, fraction: 0.25, images_per_second: 9.0, eta_seconds: 30.0 };
    let batch = ReportBatch { progress: Some(progress), ..ReportBatch::default() };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
    let kd = post(&api, student_job(json!({"job": done})), &[("distillation.method", json!("kd"))]).await;
    let [done, better, running, kd] = [&done, &better, &running, &kd].map(String::as_str);
    for (sort, asc, desc) in [
        ("created", [done, better, running, kd], [kd, running, better, done]),
        ("status", [running, kd, better, done], [better, done, kd, running]),
        ("best_top1", [done, better, kd, running], [better, done, kd, running]),
        ("progress", [running, better, done, kd], [better, done, running, kd]),
        ("eta", [running, kd, better, done], [running, kd, better, done]),
        ("method", [kd, running, better, done], [running, better, done, kd]),
        ("worker", [running, kd, better, done], [running, kd, better, done]),
        ("gain", [kd, running, better, done], [kd, running, better, done]),
    ] {
        assert_eq!(ids(&list(&api, &format!("?sort={sort}&order=asc")).await), asc, "{sort}, ascending");
        assert_eq!(ids(&list(&api, &format!("?sort={sort}")).await), desc, "{sort}, descending");
    }
    assert_eq!(ids(&list(&api, "?sort=name&order=asc&limit=3").await), [running, done, better]);
    let pairs = list(&api, "?sort=pair").await;
    assert_eq!(ids(&pairs)[0], kd);
    assert_eq!((&pairs["data"][0]["teacher"], &pairs["data"][0]["student"]), (&json!("resnet8"), &json!("resnet8")));
}

#[tokio::test]
async fn a_gain_is_above_the_mean_of_the_simplest_method_that_shares_all_but_the_seed() {
    let api = Api::start().await;
    let with_seed = |seed: u64| [("training.seed", json!(seed))];
    let teacher = trained(&api, plain_job(), &with_seed(1), 60.0).await;
    trained(&api, plain_job(), &with_seed(2), 62.0).await;
    let taught = |method: &str| {
        let mut job = student_job(json!({"job": teacher}));
        job["distillation"]["method"] = json!(method);
        job
    };
    // What is not the same does not count: another recipe, other images, another student, a failure.
    trained(&api, plain_job(), &[("training.epochs", json!(3))], 10.0).await;
    trained(&api, plain_job(), &[("dataset.limit", json!(100))], 10.0).await;
    trained(&api, plain_job(), &[("student.architecture", json!("resnet14"))], 10.0).await;
    let sdd = trained(&api, taught("sdd_dkd"), &[], 66.0).await;
    let of = async |id: &str| list(&api, &format!("?id={id}")).await["data"][0].clone();
    let first = of(&sdd).await;
    let deviation = first["baseline"]["deviation"].as_f64().unwrap();
    assert!((deviation - std::f64::consts::SQRT_2).abs() < 1e-9, "{deviation}");
    assert_eq!(
        (&first["baseline"]["method"], &first["baseline"]["top1"], &first["baseline"]["jobs"], &first["gain"]),
        (&json!("none"), &json!(61.0), &json!(2), &json!(5.0))
    );
    let kd = trained(&api, taught("kd"), &with_seed(5), 64.0).await;
    assert_eq!(of(&kd).await["gain"], 3.0);
    let second = of(&sdd).await;
    assert_eq!((&second["baseline"]["method"], &second["gain"]), (&json!("kd"), &json!(2.0)));
    assert_eq!(second["baseline"]["deviation"], Value::Null);
    // Other settings of the method are another point of the same comparison.
    trained(&api, taught("dkd"), &[("distillation.beta", json!(2))], 65.0).await;
    let third = of(&sdd).await;
    assert_eq!((&third["baseline"]["method"], &third["gain"]), (&json!("dkd"), &json!(1.0)));
    // A kd job with another teacher is not comparable.
    let other = trained(&api, plain_job(), &with_seed(3), 61.0).await;
    let mut elsewhere = taught("sdd_kd");
    elsewhere["teacher"]["job"] = json!(other);
    let elsewhere = trained(&api, elsewhere, &[], 63.5).await;
    assert_eq!(
        (&of(&elsewhere).await["baseline"]["method"], &of(&elsewhere).await["gain"]),
        (&json!("none"), &json!(2.5))
    );
    assert_eq!(of(&teacher).await["baseline"], Value::Null);
    let by_gain = list(&api, "?sort=gain&limit=2").await;
    assert_eq!(ids(&by_gain), [kd.as_str(), elsewhere.as_str()]);
    assert_eq!(ids(&list(&api, "?sort=gain&order=asc&offset=1&limit=1").await).len(), 1);
}

#[tokio::test]
async fn copies_of_a_job_count_once_in_a_baseline() {
    let api = Api::start().await;
    let run = async |seed: u64, best_top1: f64, student: &str| {
        let id = post(&api, plain_job(), &[("training.seed", json!(seed))]).await;
        let token = api.claim().await;
        let mut outcome = Outcome { best_top1, ..outcome() };
        outcome.student.sha256 = student.repeat(32);
        assert!(queue::publish(&api.db.pool, &token.write(), &outcome, &[]).await.unwrap());
        id
    };
    let teacher = run(1, 60.0, "aa").await;
    run(2, 63.0, "bb").await;
    let student = trained(&api, student_job(json!({"job": teacher})), &[], 64.0).await;
    let baseline = async || {
        let job = list(&api, &format!("?id={student}")).await["data"][0].clone();
        let by_gain = list(&api, "?sort=gain&limit=1").await["data"][0].clone();
        assert_eq!(by_gain["gain"], job["gain"]);
        let baseline = &job["baseline"];
        (baseline["top1"].clone(), baseline["jobs"].clone(), baseline["copies"].clone())
    };
    assert_eq!(baseline().await, (json!(61.5), json!(2), json!(0)));
    run(1, 60.0, "aa").await;
    run(1, 60.0, "aa").await;
    assert_eq!(baseline().await, (json!(61.5), json!(2), json!(2)), "what is trained again says nothing new");
    // On another machine the same seed may make another student.
    run(1, 66.0, "cc").await;
    assert_eq!(baseline().await, (json!(63.0), json!(3), json!(2)));
    // And other seeds the same, where nothing is left to chance.
    run(3, 63.0, "bb").await;
    assert_eq!(baseline().await, (json!(63.0), json!(4), json!(2)));
}

#[tokio::test]
async fn a_job_from_before_there_were_several_devices_counts_as_one_on_a_single_device() {
    let api = Api::start().await;
    let teacher = trained(&api, plain_job(), &[], 60.0).await;
    let forget = "update jobs set spec = spec #- '{training,devices}'";
    sqlx::query(forget).execute(&api.db.pool).await.unwrap();
    let student = trained(&api, student_job(json!({"job": teacher})), &[], 61.0).await;
    let gain = async || list(&api, &format!("?id={student}")).await["data"][0]["gain"].clone();
    assert_eq!(gain().await, Value::Null);
    let migration = include_str!("../../../migrations/20261125000801_say_that_older_jobs_train_on_one_device.sql");
    sqlx::raw_sql(migration).execute(&api.db.pool).await.unwrap();
    assert_eq!(gain().await, 1.0);
}

#[tokio::test]
async fn the_best_so_far_and_the_curve_are_of_the_evaluations_that_count() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    evaluate(&api, &token, &[(10, 50.0), (20, 61.234_567), (30, 58.0)]).await;
    let job = list(&api, "").await["data"][0].clone();
    assert_eq!((&job["best_top1"], &job["curve"]), (&json!(61.234_567), &json!([[10, 50.0], [20, 61.23], [30, 58.0]])));
    // The next attempt resumes from step 10, so points after it no longer count.
    queue::stopped(&api.db.pool, &token.write()).await.unwrap();
    let token = api.claim().await;
    let started = Started {
        device: "cpu".into(),
        precision: "float32".into(),
        threads: 1,
        train_images: 1,
        eval_images: 1,
        classes: 10,
        steps_per_epoch: 10,
        epochs: 3,
        resumed_epochs: 1,
        resumed_step: 10,
    };
    assert!(queue::started(&api.db.pool, &token.write(), &started).await.unwrap());
    assert_eq!(list(&api, "").await["data"][0]["best_top1"], 50.0);
    let many: Vec<_> = (20..1000).map(|step| (step, if step == 500 { 77.0 } else { 40.0 })).collect();
    evaluate(&api, &token, &many).await;
    let job = list(&api, "").await["data"][0].clone();
    let curve = job["curve"].as_array().unwrap();
    assert!(curve.len() <= 48 && curve.contains(&json!([500, 77.0])), "{curve:?}");
    assert_eq!((&job["best_top1"], &job["id"], &job["attempt"]), (&json!(77.0), &json!(id), &json!(2)));
}

#[tokio::test]
async fn an_invalid_query_is_refused_with_the_parameter() {
    let api = Api::start().await;
    let long = "x".repeat(201);
    let many = "&id=job_00000000000000000000000000".repeat(101);
    for (query, words) in [
        ("?sort=age".to_owned(), ["sort", "best_top1"]),
        ("?order=up".to_owned(), ["order: unknown order \"up\"; known: ", "asc"]),
        ("?limit=501".to_owned(), ["limit", "500"]),
        ("?limit=0".to_owned(), ["limit", "1"]),
        ("?offset=-1".to_owned(), ["offset", "0"]),
        ("?label=team".to_owned(), ["label", "key:value"]),
        ("?id=5".to_owned(), ["id", "not a job id"]),
        ("?status=runing".to_owned(), ["status", "did you mean running?); known: "]),
        ("?page=2".to_owned(), ["page", "unknown"]),
        ("?q=%00".to_owned(), ["q", "NUL"]),
        (format!("?q={long}"), ["q", "200"]),
        (format!("?{}", &many[1..]), ["id", "100"]),
    ] {
        api.get(&format!("/v1/summaries{query}")).await.says(400, &words);
    }
}

#[tokio::test]
async fn labels_are_listed_by_how_many_jobs_have_them() {
    let api = Api::start().await;
    for labels in
        [json!({}), json!({"team": "vision"}), json!({"team": "vision", "run": "50%"}), json!({"team": "audio"})]
    {
        post(&api, plain_job(), &[("labels", labels)]).await;
    }
    let listed = async |query: &str| {
        let list = api.get(&format!("/v1/labels{query}")).await.expect(200);
        let label = |label: &Value| format!("{}:{} {}", label["key"], label["value"], label["jobs"]).replace('"', "");
        list["data"].as_array().unwrap().iter().map(label).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ["team:vision 2", "run:50% 1", "team:audio 1"]);
    assert_eq!(listed("?limit=1").await, ["team:vision 2"]);
    assert_eq!(listed("?q=TEAM%20au").await, ["team:audio 1"]);
    assert_eq!(listed("?q=team:vis").await, ["team:vision 2"]);
    assert_eq!(listed("?q=%25").await, ["run:50% 1"], "what is searched for is no pattern");
    for (query, words) in
        [("?limit=1001", ["limit", "1000"]), ("?q=%00", ["q", "NUL"]), ("?key=team", ["key", "unknown"])]
    {
        api.get(&format!("/v1/labels{query}")).await.says(400, &words);
    }
}

#[tokio::test]
async fn changes_tell_of_every_job_that_is_posted_changed_or_deleted() {
    let api = Api::start().await;
    let mut stream = api.stream("/v1/changes", None).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data), ("changed", &json!({"ids": null})));
    let names = |id: &str| {
        let id = json!(id);
        // Null stands for any job.
        move |message: &Message| message.data["ids"].as_array().is_none_or(|ids| ids.contains(&id))
    };
    let id = api.job().await;
    stream.until(names(&id)).await;
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    stream.until(names(&id)).await;
    api.delete(&format!("/v1/jobs/{id}")).await.expect(204);
    stream.until(names(&id)).await;
    let other = api.job().await;
    stream.until(names(&other)).await;
    let token = api.claim().await;
    evaluate(&api, &token, &[(1, 5.0)]).await;
    stream.until(names(&other)).await;
    api.stop.cancel();
    stream.rest().await;
}
