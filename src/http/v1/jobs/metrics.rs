//! `/v1/jobs/{id}/metrics`

use std::convert::Infallible;
use std::fmt::Write;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query, whole};
use crate::http::v1::jobs;
use crate::jobs::metrics::{self, Series, SeriesPoint};

/// Points that are written in one go.
const PIECE: usize = 1000;

/// A job's series.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Metrics {
    /// One entry per name, in alphabetical order.
    pub series: Vec<Series>,
    /// The place of the newest point: `after=<seq of the newest event you have>-<last_id>` lets the job's stream go on
    /// from exactly here.
    pub last_id: i64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricsParameters {
    /// The series of this name only; may be repeated.
    #[serde(default)]
    name: Vec<String>,
    /// About how many points to return per series. Of every stretch the lowest and the highest stay, so peaks do.
    #[serde(default, deserialize_with = "whole::<4, 100_000, _>")]
    #[param(minimum = 4, maximum = 100_000, default = 2000)]
    max_points: Option<i64>,
}

/// A job's series
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
    let last_id = metrics::newest(&state.pool, &id.0).await?;
    if last_id == 0 {
        jobs::find(&state, &id).await?;
    }
    let max_points = parameters.max_points.and_then(|points| usize::try_from(points).ok()).unwrap_or(2000);
    let series = metrics::series(&state.pool, &id.0, &parameters.name, max_points, last_id).await?;
    if prefers_csv(&headers) {
        return Ok(([(CONTENT_TYPE, "text/csv; charset=utf-8"), (VARY, "accept")], csv(series)).into_response());
    }
    Ok(([(VARY, "accept")], Json(Metrics { series, last_id })).into_response())
}

/// The table, a piece at a time: all of it can be many times as large as the points.
fn csv(series: Vec<Series>) -> Body {
    let header = "name,step,epoch,time,value\r\n".to_owned();
    let pieces = series.into_iter().flat_map(|Series { name, points }| {
        let name =
            if name.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", name.replace('"', "\"\"")) } else { name };
        (0..points.len().div_ceil(PIECE)).map(move |piece| {
            let mut text = String::new();
            for SeriesPoint { step, epoch, time, value } in points.iter().skip(piece * PIECE).take(PIECE) {
                let time = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                let _ = write!(text, "{name},{step},{epoch},{time},{value}\r\n");
            }
            text
        })
    });
    Body::from_stream(stream::iter(std::iter::once(header).chain(pieces).map(Ok::<_, Infallible>)))
}

/// Whether the client names CSV, and does not like JSON better.
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
