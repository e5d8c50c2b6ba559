//! Any setting of specifications, by the JSON pointer that leads to it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

use crate::sweep::pointer;

/// Separates the names of a path in a query's parameter: no name contains it.
const BETWEEN: &str = "\u{1f}";
/// Longest pointer, in characters.
const LONGEST: usize = 200;
/// Jobs whose settings are listed.
const LOOKED_AT: i64 = 1000;

/// The place of a setting in a specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecSetting {
    pub pointer: String,
    /// Its names, with [`BETWEEN`] between them.
    pub(super) path: String,
}

impl SpecSetting {
    /// `None` if the text is no JSON pointer into an object.
    #[must_use]
    pub fn at(pointer: &str) -> Option<Self> {
        let is_plain = pointer.chars().count() <= LONGEST && !pointer.chars().any(char::is_control);
        let names = pointer::tokens(pointer).filter(|_| is_plain)?;
        Some(Self { pointer: pointer.to_owned(), path: names.join(BETWEEN) })
    }
}

/// A setting that specifications have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KnownSetting {
    /// JSON pointer into the specification.
    #[schema(example = "/distillation/temperature")]
    pub pointer: String,
    /// How many different values it has.
    pub values: i64,
    /// How many of the newest 1,000 jobs have it.
    pub jobs: i64,
}

/// The settings of the newest jobs: those with the most different values first. Lists count as one value.
pub async fn known(pool: &PgPool) -> sqlx::Result<Vec<KnownSetting>> {
    let rows = sqlx::query!(
        r#"
        with recursive leaves (path, value) as (
            select '{}'::text[], newest.spec - array['name', 'labels', 'priority', 'max_attempts']
            from (select spec from jobs order by id desc limit $1) as newest where jsonb_typeof(newest.spec) = 'object'
            union all
            select leaves.path || member.key, member.value
            from leaves, jsonb_each(case when jsonb_typeof(leaves.value) = 'object' then leaves.value else '{}' end)
                as member)
        select path as "path!", count(distinct value) as "values!", count(*) as "jobs!"
        from leaves where jsonb_typeof(value) <> 'object' and path <> '{}'
        group by path order by count(distinct value) desc, path
        "#,
        LOOKED_AT,
    )
    .fetch_all(pool)
    .await?;
    let known = rows.into_iter().map(|row| {
        let names = row.path.iter().map(|name| format!("/{}", pointer::escaped(name)));
        KnownSetting { pointer: names.collect(), values: row.values, jobs: row.jobs }
    });
    Ok(known.collect())
}

/// Whether any job has a setting.
pub async fn is_in_any_job(pool: &PgPool, setting: &SpecSetting) -> sqlx::Result<bool> {
    let query = sqlx::query_scalar!(
        r#"select exists(select 1 from jobs where spec #> string_to_array($1, E'\x1f') is not null) as "found!""#,
        setting.path,
    );
    query.fetch_one(pool).await
}

/// The values of settings by job; null where a job has none.
pub(super) async fn values(
    pool: &PgPool,
    jobs: &[String],
    settings: &[SpecSetting],
) -> sqlx::Result<HashMap<String, BTreeMap<String, Value>>> {
    if settings.is_empty() {
        return Ok(HashMap::new());
    }
    let pointers: Vec<String> = settings.iter().map(|setting| setting.pointer.clone()).collect();
    let paths: Vec<String> = settings.iter().map(|setting| setting.path.clone()).collect();
    let rows = sqlx::query!(
        r#"
        select id, (
            select jsonb_object_agg(pointer, readable(spec #> string_to_array(path, E'\x1f')))
            from unnest($2::text[], $3::text[]) as wanted (pointer, path)
        ) as "settings!: Json<BTreeMap<String, Value>>"
        from jobs where id = any($1)
        "#,
        jobs,
        &pointers,
        &paths,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.settings.0)).collect())
}
