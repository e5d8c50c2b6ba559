//! The labels that jobs have.

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

use super::summaries::patterns;

/// A label that jobs have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Label {
    /// Its key.
    #[schema(example = "team")]
    pub key: String,
    /// Its value.
    #[schema(example = "vision")]
    pub value: String,
    /// How many jobs have it.
    pub jobs: i64,
}

/// Labels in whose `key:value` each of these words occurs, the most frequent first.
pub async fn find(pool: &PgPool, words: &[String], limit: i64) -> sqlx::Result<Vec<Label>> {
    sqlx::query_as!(
        Label,
        r#"
        select label.key as "key!", label.value as "value!", count(*) as "jobs!"
        from jobs,
            jsonb_each_text(case when jsonb_typeof(labels) = 'object' then labels else '{}' end) as label
        where labels <> '{}' and label.value is not null
            and (cardinality($1::text[]) = 0 or label.key || ':' || label.value ilike all($1))
        group by label.key, label.value order by count(*) desc, label.key, label.value limit $2
        "#,
        &patterns(words),
        limit,
    )
    .fetch_all(pool)
    .await
}
