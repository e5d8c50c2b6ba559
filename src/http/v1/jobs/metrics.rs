//! `/v1/jobs/{id}/metrics`

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::{IntoParams, ToSchema};

use crate::db::metrics::{self, Series, SeriesPoint};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query, whole};
use crate::http::v1::jobs;

/// Points per chunk of the CSV.
const CHUNK: usize = 1000;

/// Permits for answers in memory; see [`Charts::room`].
const PERMITS: u32 = 100;
/// Points of each series that one permit stands for.
const POINTS_PER_PERMIT: usize = 1000;

/// Room for answers in memory, which requests wait for. A point of two dozen series takes some three kilobytes in it, so
/// all together take up to 300 MB.
#[derive(Debug)]
pub struct Charts(Arc<Semaphore>);

impl Default for Charts {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PERMITS as usize)))
    }
}

impl Charts {
    /// Waits for room for an answer with so many points of each series.
    async fn room(&self, max_points: usize) -> OwnedSemaphorePermit {
        let permits = u32::try_from(max_points / POINTS_PER_PERMIT + 1).unwrap_or(PERMITS).min(PERMITS);
        self.0.clone().acquire_many_owned(permits).await.expect("nobody closes it")
    }
}

/// A job's series.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Metrics {
    /// One entry per name, in alphabetical order.
    pub series: Vec<Series>,
    /// Id of the newest point. With `after=<seq of your newest event>-<last_id>`, the job's stream continues exactly
    /// from here.
    pub last_id: i64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricsParameters {
    /// Only the series with this name. Can be repeated.
    #[serde(default)]
    name: Vec<String>,
    /// Approximate number of points per series. Thinning keeps the minimum and the maximum of each interval, so peaks
    /// remain visible.
    #[serde(default, deserialize_with = "whole::<4, 100_000, _>")]
    #[param(minimum = 4, maximum = 100_000, default = 2000)]
    max_points: Option<i64>,
}

/// Get a job's metrics
///
/// JSON, or CSV (`name,step,epoch,time,value`) with `Accept: text/csv`.
#[utoipa::path(get, path = "/v1/jobs/{id}/metrics", tag = "jobs", operation_id = "get_metrics",
    params(("id" = String, Path, description = "Id of the job"), MetricsParameters),
    responses((status = 200, content((Metrics = "application/json"), (String = "text/csv")))))]
pub async fn get(
    State(state): State<AppState>,
    id: JobId,
    Query(parameters): Query<MetricsParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // The points of a deleted job may be there a little longer than the job.
    jobs::find(&state, &id).await?;
    let last_id = metrics::newest(&state.pool, &id.0).await?;
    let max_points = parameters.max_points.and_then(|points| usize::try_from(points).ok()).unwrap_or(2000);
    let room = state.charts.room(max_points).await;
    let series = metrics::series(&state.pool, &id.0, &parameters.name, max_points, last_id).await?;
    let response = if prefers_csv(&headers) {
        ([(CONTENT_TYPE, "text/csv; charset=utf-8"), (VARY, "accept")], csv(series)).into_response()
    } else {
        ([(VARY, "accept")], Json(Metrics { series, last_id })).into_response()
    };
    // The room is taken until the client has the answer.
    let keep = move |_: &_| {
        let _ = &room;
    };
    Ok(response.map(|body| Body::from_stream(body.into_data_stream().inspect(keep))))
}

/// Streams the table in chunks, because its text can be many times as large as the points.
fn csv(series: Vec<Series>) -> Body {
    let header = "name,step,epoch,time,value\r\n".to_owned();
    let chunks = series.into_iter().flat_map(|Series { name, points }| {
        let name =
            if name.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", name.replace('"', "\"\"")) } else { name };
        (0..points.len().div_ceil(CHUNK)).map(move |chunk| {
            let mut text = String::new();
            for SeriesPoint { step, epoch, time, value } in points.iter().skip(chunk * CHUNK).take(CHUNK) {
                let time = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                let _ = write!(text, "{name},{step},{epoch},{time},{value}\r\n");
            }
            text
        })
    });
    Body::from_stream(stream::iter(std::iter::once(header).chain(chunks).map(Ok::<_, Infallible>)))
}

/// Whether the client accepts CSV and does not prefer JSON.
fn prefers_csv(headers: &HeaderMap) -> bool {
    let mut csv = 0.0;
    let mut json: f32 = 0.0;
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        match kind.as_str() {
            "text/csv" | "text/*" => csv = quality,
            "application/json" | "application/*" => json = quality,
            _ => {}
        }
    }
    csv > 0.0 && csv >= json
}
