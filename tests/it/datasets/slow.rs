//! What clients see, and what the disk holds, while decoding or storing takes long. The database makes it slow.

use std::path::Path;

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgPoolOptions;

use crate::support::api::{Api, plain_job};
use crate::support::archives::{pets, zip};
use crate::support::db::{TestDb, connection};
use crate::support::{PATIENCE, eventually};

/// Lets whoever stores statistics wait for a lock.
const SLOW_STATISTICS: &str = "
    create function wait_for_test() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock(1); return new; end $$;
    create trigger wait_for_test before update of statistics on datasets for each row execute function wait_for_test();
";

/// A server whose queries wait for locks as long as they must, and a connection to hold them.
async fn start() -> (Api, PgConnection) {
    let db = TestDb::new().await;
    let pool = PgPoolOptions::new().max_connections(30).connect(&db.url).await.unwrap();
    let holder = connection(&db.url).await;
    (Api::start_on(db, pool, |_| ()).await, holder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_can_be_looked_at_and_used_while_its_images_are_decoded() {
    let (api, mut holder) = start().await;
    sqlx::raw_sql(SLOW_STATISTICS).execute(&mut holder).await.unwrap();
    sqlx::query("select pg_advisory_lock(1)").execute(&mut holder).await.unwrap();
    let details = api.upload_dataset("pets", zip(&pets())).await.expect(201);
    assert_eq!(details["statistics"], Value::Null);
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    // The images are decoded once somebody waits.
    eventually("the images are decoded", async || {
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut holder).await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;

    let looked = api.get("/v1/datasets/pets").await.expect(200);
    assert_eq!((&looked["statistics"], &looked["statistics_fault"]), (&Value::Null, &Value::Null));
    assert_eq!(looked["statistics_progress"], json!({"read": 8, "images": 8}));
    assert_eq!((&looked["images"], &looked["classes"]), (&json!(8), &details["classes"]));
    let page = api.get("/v1/datasets/pets/images").await.expect(200);
    assert!(page["data"][0]["thumbnail"].is_string(), "{page}");
    assert!(api.get("/v1/datasets").await.expect(200)["data"].to_string().contains("pets"));
    let mut job = plain_job();
    job["dataset"] = json!({"name": "pets"});
    let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200)["warnings"].to_string();
    assert!(
        dry.contains("not known yet") && dry.contains("read 8 of 8") && dry.contains("/v1/datasets/pets@"),
        "{dry}"
    );
    assert_eq!(api.post("/v1/jobs", &job).await.expect(201)["spec"]["dataset"]["name"], details["id"]);

    sqlx::query("select pg_advisory_unlock(1)").execute(&mut holder).await.unwrap();
    let details = api.decoded("pets").await;
    assert_eq!(
        (&details["statistics"]["splits"][0]["examined"], &details["statistics_progress"]),
        (&json!(6), &Value::Null)
    );
}

/// Number of directories in which uploads are unpacked.
fn unpacked(spool: &Path) -> usize {
    let entries = std::fs::read_dir(spool).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("work-")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_number_of_unpacked_data_sets_wait_for_a_slow_storage() {
    let (api, mut holder) = start().await;
    // What is stored is announced there first.
    for statement in ["begin", "lock table file_deletions in exclusive mode"] {
        sqlx::query(statement).execute(&mut holder).await.unwrap();
    }
    let names: Vec<String> = (0..12).map(|number| format!("pets{number}")).collect();
    let uploads = join_all(names.iter().map(|name| api.upload_dataset(name, zip(&pets()))));
    let spool = api.dir.path().join("spool");
    // Four are being stored, and two wait for that.
    let looks = async {
        eventually("six are unpacked", async || (unpacked(&spool) >= 6).then_some(())).await;
        // Long enough for the others to be unpacked, if nothing held them back.
        for _ in 0..50 {
            api.get("/v1/architectures").await.expect(200);
            assert_eq!(unpacked(&spool), 6);
        }
        sqlx::query("rollback").execute(&mut holder).await.unwrap();
    };
    let both = async { tokio::join!(uploads, looks) };
    let (uploads, ()) = tokio::time::timeout(PATIENCE, both).await.expect("all are stored in the end");
    for upload in uploads {
        upload.expect(201);
    }
    assert_eq!(unpacked(&spool), 0);
}
