//! `/v1/summaries`

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::jobs::labels;
use super::settings;
use crate::db::jobs::Status;
use crate::db::jobs::settings::SpecSetting;
use crate::db::jobs::summaries::{self, Found, Sort, Summary};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query, whole};
use crate::text::quoted;

/// Most `id` parameters in one request.
const MOST_IDS: usize = 100;
/// Most `column` parameters in one request.
const MOST_COLUMNS: usize = 16;
/// Longest search text, in characters.
const LONGEST_SEARCH: usize = 200;

/// Direction of sorting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SortDirection {
    /// Smallest first.
    Asc,
    /// Largest first.
    Desc,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SummariesParameters {
    /// Only jobs with this status. Can be repeated.
    #[serde(default)]
    status: Vec<Status>,
    /// Only jobs with this label, as `key:value`. Can be repeated.
    #[serde(default)]
    label: Vec<String>,
    /// Only jobs that contain each of these words in their id, name, method, networks, data set or labels.
    /// Case-insensitive.
    #[param(max_length = 200)]
    q: Option<String>,
    /// Only the job with this id. Can be repeated up to 100 times.
    #[serde(default)]
    #[param(max_items = 100)]
    id: Vec<String>,
    /// Only jobs of this sweep.
    sweep: Option<String>,
    /// Also give each job the value of this setting: a JSON pointer into the specification, such as
    /// `/distillation/temperature`. One that neither this version nor any job has is refused. Can be repeated up to 16
    /// times.
    #[serde(default)]
    #[param(max_items = 16)]
    column: Vec<String>,
    /// What to sort by. Jobs without that value come last.
    #[param(inline, default = "created")]
    sort: Option<Sort>,
    /// Direction of sorting.
    #[param(inline, default = "desc")]
    order: Option<SortDirection>,
    /// Entries to skip at the start.
    #[serde(default, deserialize_with = "whole::<0, 1_000_000, _>")]
    #[param(minimum = 0, maximum = 1_000_000, default = 0)]
    offset: Option<i64>,
    /// Most entries to return.
    #[serde(default, deserialize_with = "whole::<1, 500, _>")]
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<i64>,
}

/// Part of a list of jobs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Summaries {
    /// The jobs.
    pub data: Vec<Summary>,
    /// Number of jobs in the whole list.
    pub total: i64,
    /// Number of jobs with each status, regardless of `status`.
    pub statuses: BTreeMap<String, i64>,
}

impl Summaries {
    fn new(Found { data, statuses }: Found, asked: &[Status]) -> Self {
        let is_asked = |status: &Status| asked.is_empty() || asked.contains(status);
        let total = statuses.iter().filter(|(status, _)| is_asked(status)).map(|(_, jobs)| jobs).sum();
        let statuses = statuses.into_iter().map(|(status, jobs)| (status.name().to_owned(), jobs)).collect();
        Self { data, total, statuses }
    }
}

/// List summaries of jobs
///
/// With search, sorting and pages. Each summary has the curve of evaluations, the best top-1 accuracy so far, and the
/// accuracy to compare it with.
#[utoipa::path(get, path = "/v1/summaries", tag = "jobs", operation_id = "list_summaries", params(SummariesParameters),
    responses((status = 200, body = Summaries)))]
pub async fn list(
    State(state): State<AppState>,
    Query(parameters): Query<SummariesParameters>,
) -> Result<Json<Summaries>, ApiError> {
    let SummariesParameters { status: statuses, label, q, id, sweep, column, sort, order, offset, limit } = parameters;
    let words = words(q)?;
    if id.len() > MOST_IDS {
        return Err(ApiError::malformed(format!("query parameters: id: at most {MOST_IDS} are allowed")));
    }
    if let Some(other) = id.iter().find(|id| !JobId::is_id(id)) {
        return Err(ApiError::malformed(format!(
            "query parameters: id: {other} is not a job id",
            other = quoted(other)
        )));
    }
    let columns = columns(&state, column).await?;
    let Some(labels) = labels(label)? else {
        let none = Status::ALL.map(|status| (status, 0)).to_vec();
        return Ok(Json(Summaries::new(Found { data: Vec::new(), statuses: none }, &statuses)));
    };
    let query = summaries::SummaryQuery {
        labels,
        words,
        ids: Some(id).filter(|ids| !ids.is_empty()),
        sweep,
        columns,
        sort: sort.unwrap_or_default(),
        is_descending: order != Some(SortDirection::Asc),
        offset: offset.unwrap_or(0),
        limit: Some(limit.unwrap_or(50)),
        statuses,
    };
    Ok(Json(Summaries::new(summaries::find(&state.pool, &query).await?, &query.statuses)))
}

/// The settings that JSON pointers lead to.
async fn columns(state: &AppState, pointers: Vec<String>) -> Result<Vec<SpecSetting>, ApiError> {
    if pointers.len() > MOST_COLUMNS {
        return Err(ApiError::malformed(format!("query parameters: column: at most {MOST_COLUMNS} are allowed")));
    }
    let columns = pointers.into_iter().map(|pointer| {
        SpecSetting::at(&pointer).ok_or_else(|| {
            let expected = "expected a JSON pointer such as /distillation/temperature";
            ApiError::malformed(format!(
                "query parameters: column: {expected}, found {pointer}",
                pointer = quoted(&pointer)
            ))
        })
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    for column in &columns {
        settings::check(state, "column", column).await?;
    }
    Ok(columns)
}

/// The words of a search text.
pub(super) fn words(q: Option<String>) -> Result<Vec<String>, ApiError> {
    let q = q.unwrap_or_default();
    if q.chars().count() > LONGEST_SEARCH || q.contains('\0') {
        return Err(ApiError::malformed(format!(
            "query parameters: q: expected at most {LONGEST_SEARCH} characters without NUL"
        )));
    }
    Ok(q.split_whitespace().map(str::to_owned).collect())
}
