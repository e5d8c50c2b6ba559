//! How fast jobs trained, for estimates.

use sqlx::PgPool;
use sqlx::types::Json;

use crate::spec::JobSpec;

/// A job that has trained, or trains now.
#[derive(Debug)]
pub struct MeasuredJob {
    pub spec: JobSpec,
    /// Its latest rate in training images per second.
    pub images_per_second: f64,
}

/// The newest jobs that have been measured. Jobs of another version, whose specifications this one cannot read, are left
/// out.
pub async fn measured(pool: &PgPool, most: i64) -> sqlx::Result<Vec<MeasuredJob>> {
    let rows = sqlx::query!(
        r#"
        select spec as "spec: Json<serde_json::Value>",
            (progress ->> 'images_per_second')::float8 as "images_per_second!"
        from jobs where (progress ->> 'images_per_second')::float8 > 0
        order by id desc limit $1
        "#,
        most,
    )
    .fetch_all(pool)
    .await?;
    let job = |spec: serde_json::Value, images_per_second: f64| {
        Some(MeasuredJob { spec: JobSpec::from_stored(&spec).ok()?, images_per_second })
    };
    Ok(rows.into_iter().filter_map(|row| job(row.spec.0, row.images_per_second)).collect())
}
