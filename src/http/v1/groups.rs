//! `/v1/groups`

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::jobs::labels;
use super::settings;
use super::summaries::{SortDirection, words};
use crate::db::jobs::groups::{self, Group, GroupKey, GroupQuery, GroupSort};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{Query, whole};
use crate::text::quoted;

/// Most `by` parameters in one request.
const MOST_KEYS: usize = 8;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GroupsParameters {
    /// What jobs of a group have in common: `method`, `teacher`, `student`, `dataset`, `sweep`, `label:KEY`, or the
    /// JSON pointer of a setting, such as `/distillation/temperature`. Can be repeated up to 8 times. Default:
    /// `method`.
    #[serde(default)]
    #[param(max_items = 8)]
    by: Vec<String>,
    /// Only jobs with this label, as `key:value`. Can be repeated.
    #[serde(default)]
    label: Vec<String>,
    /// Only jobs that contain each of these words in their id, name, method, networks, data set or labels.
    /// Case-insensitive.
    #[param(max_length = 200)]
    q: Option<String>,
    /// Only jobs of this sweep.
    sweep: Option<String>,
    /// What to sort by. Groups without that value come last.
    #[param(inline, default = "top1")]
    sort: Option<GroupSort>,
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

/// Part of a list of groups.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Groups {
    /// What jobs are grouped by.
    pub by: Vec<String>,
    /// The groups.
    pub data: Vec<Group>,
    /// Number of groups in the whole list; 0 beyond its end.
    pub total: i64,
}

/// List groups of jobs
///
/// Which settings were best: succeeded jobs pooled by what they have in common, each group with mean and standard
/// deviation over its jobs, their number, the best of them, and the mean gain over their baselines.
#[utoipa::path(get, path = "/v1/groups", tag = "jobs", operation_id = "list_groups", params(GroupsParameters),
    responses((status = 200, body = Groups)))]
pub async fn list(
    State(state): State<AppState>,
    Query(parameters): Query<GroupsParameters>,
) -> Result<Json<Groups>, ApiError> {
    let GroupsParameters { mut by, label, q, sweep, sort, order, offset, limit } = parameters;
    if by.is_empty() {
        by.push("method".to_owned());
    }
    if by.len() > MOST_KEYS {
        return Err(ApiError::malformed(format!("query parameters: by: at most {MOST_KEYS} are allowed")));
    }
    let keys = by.iter().map(|text| {
        GroupKey::named(text).ok_or_else(|| {
            let expected = "expected method, teacher, student, dataset, sweep, label:KEY or a JSON pointer such as \
                            /distillation/temperature";
            ApiError::malformed(format!("query parameters: by: {expected}, found {}", quoted(text)))
        })
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    for key in &keys {
        if let GroupKey::Setting(setting) = key {
            settings::check(&state, "by", setting).await?;
        }
    }
    let words = words(q)?;
    let Some(labels) = labels(label)? else { return Ok(Json(Groups { by, data: Vec::new(), total: 0 })) };
    let query = GroupQuery {
        by: keys,
        labels,
        words,
        sweep,
        sort: sort.unwrap_or_default(),
        is_descending: order != Some(SortDirection::Asc),
        offset: offset.unwrap_or(0),
        limit: limit.unwrap_or(50),
    };
    let (data, total) = groups::find(&state.pool, &query).await?;
    Ok(Json(Groups { by, data, total }))
}
