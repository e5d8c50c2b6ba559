//! The embedded database starts, stops, and survives what happens to its process.

mod common;

use common::TestDb;

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, two) = (TestDb::new().await, TestDb::new().await);
    sqlx::query("insert into jobs (id, name, spec, max_attempts) values ('job_1', 'a', '{}', 1)")
        .execute(&one.pool)
        .await
        .unwrap();
    let count: i64 = sqlx::query_scalar("select count(*) from jobs").fetch_one(&two.pool).await.unwrap();
    assert_eq!(count, 0);
}
