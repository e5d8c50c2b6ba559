//! Which settings were best: succeeded jobs pooled by what they have in common, each group over its seeds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

use super::baselines::simpler;
use super::settings::SpecSetting;
use super::summaries::patterns;
use crate::spec::Method;

/// What jobs are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupKey {
    Method,
    /// The teacher's architecture or name.
    Teacher,
    /// The student's architecture or name.
    Student,
    Dataset,
    Sweep,
    /// The value of the label with this key.
    Label(String),
    Setting(SpecSetting),
}

impl GroupKey {
    /// Reads `method`, `teacher`, `student`, `dataset`, `sweep`, `label:KEY` or a JSON pointer into the specification.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Some(match text {
            "method" => Self::Method,
            "teacher" => Self::Teacher,
            "student" => Self::Student,
            "dataset" => Self::Dataset,
            "sweep" => Self::Sweep,
            other => match other.strip_prefix("label:") {
                Some(key) if key.is_empty() || key.chars().any(char::is_control) => return None,
                Some(key) => Self::Label(key.to_owned()),
                None => Self::Setting(SpecSetting::at(other)?),
            },
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Teacher => "teacher",
            Self::Student => "student",
            Self::Dataset => "dataset",
            Self::Sweep => "sweep",
            Self::Label(_) => "label",
            Self::Setting(_) => "setting",
        }
    }

    fn path(&self) -> &str {
        match self {
            Self::Label(key) => key,
            Self::Setting(setting) => &setting.path,
            _ => "",
        }
    }
}

/// What groups are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupSort {
    /// Mean of the best top-1 accuracies.
    #[default]
    Top1,
    /// Mean gain over the baselines.
    Gain,
    /// Best top-1 accuracy.
    Best,
    /// Standard deviation.
    Deviation,
    /// Number of jobs.
    N,
}

impl GroupSort {
    fn name(self) -> &'static str {
        match self {
            Self::Top1 => "top1",
            Self::Gain => "gain",
            Self::Best => "best",
            Self::Deviation => "deviation",
            Self::N => "n",
        }
    }
}

/// Which jobs, in which groups, in which order.
#[derive(Debug, Clone, Default)]
pub struct GroupQuery {
    pub by: Vec<GroupKey>,
    /// Jobs with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Jobs that contain each of these words in their id, name, method, networks, data set or labels.
    pub words: Vec<String>,
    /// Jobs of this sweep.
    pub sweep: Option<String>,
    pub sort: GroupSort,
    pub is_descending: bool,
    pub offset: i64,
    pub limit: i64,
}

/// Succeeded jobs that have something in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// The value of each `by`, in that order; null where its jobs have none.
    pub values: Vec<Value>,
    /// Mean of the jobs' best top-1 accuracies, in percent.
    pub top1: f64,
    /// Their standard deviation (of the sample); null for a single job.
    pub deviation: Option<f64>,
    /// How many there are, without copies.
    pub n: i64,
    /// How many more there are that have the seed and the student of one of these, byte for byte: they count once.
    pub copies: i64,
    /// The best of these accuracies, in percent.
    pub best: f64,
    /// Number of data sets of its jobs. Accuracies on different data sets say nothing about each other: group by
    /// `dataset`, too.
    pub datasets: i64,
    /// Mean of the accuracies less their baselines, over the jobs that have one, in percentage points.
    pub gain: Option<f64>,
    /// Largest standard deviation of these baselines; null if each is a single job.
    pub baseline_deviation: Option<f64>,
    /// Ids of up to 12 of its jobs, the best first.
    pub jobs: Vec<String>,
}

/// The groups of a page, and how many there are in all.
pub async fn find(pool: &PgPool, query: &GroupQuery) -> sqlx::Result<(Vec<Group>, i64)> {
    let kinds: Vec<String> = query.by.iter().map(|key| key.kind().to_owned()).collect();
    let paths: Vec<String> = query.by.iter().map(|key| key.path().to_owned()).collect();
    let pairs = Method::ALL.into_iter().flat_map(|method| simpler(method).iter().map(move |other| (method, *other)));
    let (methods, simpler): (Vec<String>, Vec<String>) =
        pairs.map(|(method, other)| (method.name().to_owned(), other.name().to_owned())).unzip();
    let rows = sqlx::query!(
        r#"
        with found as (select * from grouped_jobs($1, $2, $3, $4, $5, $6, $7)),
        -- The second time with the data set, which ends the key, unless all jobs of a group have the same in any case.
        apart as (
            select given.key - (-1) as key, count(*) as datasets
            from grouped_jobs($1::text[] || array['dataset'], $2::text[] || array[''], $3, $4, $5, $6, $7) as given
            where not ($1::text[] @> array['dataset'])
                and (select min(dataset) <> max(dataset) from jobs where status = 'succeeded')
            group by given.key - (-1))
        select (select jsonb_agg(readable(value) order by place) from jsonb_array_elements(key)
                with ordinality as elements (value, place)) as "values!: Json<Vec<Value>>",
            top1 as "top1!", deviation, n as "n!", copies as "copies!", best as "best!",
            coalesce(datasets, 1) as "datasets!", gain, baseline_deviation, jobs as "jobs!",
            count(*) over () as "total!"
        from found left join apart using (key)
        order by case $8::text when 'top1' then top1 when 'gain' then gain when 'best' then best
            when 'deviation' then deviation when 'n' then n end * case when $9 then -1 else 1 end nulls last, key
        offset $10 limit $11
        "#,
        &kinds,
        &paths,
        Json(&query.labels) as _,
        &patterns(&query.words),
        query.sweep,
        &methods,
        &simpler,
        query.sort.name(),
        query.is_descending,
        query.offset,
        query.limit,
    )
    .fetch_all(pool)
    .await?;
    let total = rows.first().map_or(0, |row| row.total);
    let groups = rows.into_iter().map(|row| Group {
        values: row.values.0,
        top1: row.top1,
        deviation: row.deviation,
        n: row.n,
        copies: row.copies,
        best: row.best,
        datasets: row.datasets,
        gain: row.gain,
        baseline_deviation: row.baseline_deviation,
        jobs: row.jobs,
    });
    Ok((groups.collect(), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_grouped_by_names_labels_and_pointers() {
        let setting = SpecSetting::at("/distillation/scales").expect("a pointer");
        assert_eq!(GroupKey::named("/distillation/scales"), Some(GroupKey::Setting(setting)));
        assert_eq!(GroupKey::named("label:a:b"), Some(GroupKey::Label("a:b".into())));
        for text in ["method", "teacher", "student", "dataset", "sweep"] {
            assert_eq!(GroupKey::named(text).map(|key| key.kind()), Some(text));
        }
        for wrong in ["", "label:", "epochs", "/", "/a//b", "/a\u{1f}b"] {
            assert_eq!(GroupKey::named(wrong), None, "{wrong:?}");
        }
    }
}
