//! `/v1/jobs/{id}/metrics`

use std::collections::BTreeSet;
use std::fmt::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::{IntoParams, ToSchema};

use crate::db::metrics::{self, Series, SeriesPoint, SeriesReader};
use crate::http::AppState;
use crate::http::answers::{self, AnswerClient, Answers, ReservedMemory};
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query, whole};
use crate::http::v1::jobs;
use crate::protocol::series;
use crate::text;

/// Memory in bytes that a part takes until it is written.
const PART_MEMORY: usize = 512 << 10;

/// Parts that are read at the same time. Each takes a few megabytes until it is thinned.
const READS: usize = 8;

/// How long a turn is kept while there is no memory for what is read in it.
const MEMORY_PATIENCE: Duration = Duration::from_millis(50);

/// Turns to read a part of an answer, which requests wait for. Neither a client that reads an answer slowly holds one,
/// nor a request that waits for memory.
#[derive(Debug)]
pub struct Charts(Semaphore);

impl Default for Charts {
    fn default() -> Self {
        Self(Semaphore::new(READS))
    }
}

impl Charts {
    /// Waits for a turn, which lasts until it is dropped, and for memory for a part.
    pub async fn turn(&self, answers: &Arc<Answers>, client: &AnswerClient) -> (SemaphorePermit<'_>, ReservedMemory) {
        let turn = self.next().await;
        // Once there is a turn, so that what waits for one reserves no memory, unless there was none for a while.
        let mut memory = pin!(answers.reserve(PART_MEMORY, client));
        if let Ok(memory) = tokio::time::timeout(MEMORY_PATIENCE, &mut memory).await {
            return (turn, memory);
        }
        drop(turn);
        let memory = memory.await;
        (self.next().await, memory)
    }

    async fn next(&self) -> SemaphorePermit<'_> {
        self.0.acquire().await.expect("nobody closes it")
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
    /// Only the series with this name, if the job has one. A name that neither this version nor the job knows is
    /// refused. Can be repeated.
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
    client: AnswerClient,
    Query(parameters): Query<MetricsParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // The points of a deleted job may be there a little longer than the job.
    jobs::find(&state, &id).await?;
    check_names(&state, &id, &parameters.name).await?;
    let last_id = metrics::newest(&state.pool, &id.0).await?;
    let is_csv = prefers_csv(&headers);
    if last_id == 0 && !is_csv {
        return Ok(([(VARY, "accept")], Json(Metrics { series: Vec::new(), last_id })).into_response());
    }
    let max_points = parameters.max_points.and_then(|points| usize::try_from(points).ok()).unwrap_or(2000);
    let reader = SeriesReader::new(&state.pool, &id.0, &parameters.name, max_points, last_id).await?;
    let mut answer = Answer {
        charts: state.charts,
        answers: state.answers,
        client,
        reader,
        is_csv,
        last_id,
        series: None,
        stage: AnswerStage::Start,
    };
    // Before the status is sent, so that it can say that this failed.
    let first = answer.next().await?;
    let rest = stream::try_unfold(answer, |mut answer| async move {
        let text = answer.next().await?;
        Ok::<_, sqlx::Error>(text.map(|text| (text, answer)))
    });
    let pieces = stream::iter(first.map(Ok)).chain(rest);
    let pieces = pieces.inspect_err(|error| tracing::warn!(%error, "an answer with metrics ends early"));
    let kind = if is_csv { "text/csv; charset=utf-8" } else { "application/json" };
    Ok(([(CONTENT_TYPE, kind), (VARY, "accept")], Body::from_stream(answers::let_go(pieces))).into_response())
}

/// Refuses names of series that neither this version has nor the job, whose worker may be of another version.
async fn check_names(state: &AppState, id: &JobId, names: &[String]) -> Result<(), ApiError> {
    let strange: Vec<&String> = names.iter().filter(|name| !series::is_known(name)).collect();
    if strange.is_empty() {
        return Ok(());
    }
    let own = metrics::all_names(&state.pool, &id.0).await?;
    let Some(unknown) = strange.into_iter().find(|name| !own.contains(*name)) else { return Ok(()) };
    let known: BTreeSet<&str> = series::ALL.into_iter().chain(own.iter().map(String::as_str)).collect();
    let reason = text::unknown("series", unknown, &Vec::from_iter(known));
    Err(ApiError::malformed(format!("query parameters: name: {reason}")))
}

/// An answer, which is read and written in pieces as the client takes them.
struct Answer {
    charts: Arc<Charts>,
    answers: Arc<Answers>,
    client: AnswerClient,
    reader: SeriesReader,
    is_csv: bool,
    last_id: i64,
    /// Name of the series that has begun.
    series: Option<String>,
    stage: AnswerStage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AnswerStage {
    Start,
    Middle,
    End,
}

impl Answer {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> sqlx::Result<Option<Bytes>> {
        if self.stage == AnswerStage::End {
            return Ok(None);
        }
        let (turn, memory) = self.charts.turn(&self.answers, &self.client).await;
        let part = self.reader.next().await?;
        drop(turn);
        let mut text = String::new();
        if self.stage == AnswerStage::Start {
            text += if self.is_csv { "name,step,epoch,time,value\r\n" } else { "{\"series\":[" };
        }
        self.stage = if part.is_some() { AnswerStage::Middle } else { AnswerStage::End };
        match part {
            Some(part) if self.is_csv => csv(&part, &mut text),
            Some(part) => self.json(part, &mut text),
            None if self.is_csv => {}
            None => {
                let close = if self.series.is_some() { "]}" } else { "" };
                let _ = write!(text, "{close}],\"last_id\":{}}}", self.last_id);
            }
        }
        Ok(Some(memory.hold(text)))
    }

    fn json(&mut self, part: Series, text: &mut String) {
        let Series { name, points } = part;
        if self.series.as_ref() == Some(&name) {
            text.push(',');
        } else {
            let close = if self.series.is_some() { "]}," } else { "" };
            let _ = write!(text, "{close}{{\"name\":{},\"points\":[", serde_json::Value::from(name.as_str()));
            self.series = Some(name);
        }
        let list = serde_json::to_string(&points).expect("points can be written as JSON");
        // Without its brackets: the next part may go on with the same series.
        text.push_str(list.trim_start_matches('[').trim_end_matches(']'));
    }
}

fn csv(part: &Series, text: &mut String) {
    let name = &part.name;
    let quoted = name.contains(['"', ',', '\r', '\n']).then(|| format!("\"{}\"", name.replace('"', "\"\"")));
    let name = quoted.as_ref().unwrap_or(name);
    for SeriesPoint { step, epoch, time, value } in &part.points {
        let time = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let _ = write!(text, "{name},{step},{epoch},{time},{value}\r\n");
    }
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

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;

    use super::*;
    use crate::http::ServerSettings;

    #[tokio::test]
    async fn who_waits_for_memory_keeps_no_turn() {
        let mut settings =
            ServerSettings::new(([127, 0, 0, 1], 0).into(), "datasets".into(), std::env::temp_dir().join("spool"));
        settings.answers_limit = PART_MEMORY as u64;
        let (charts, answers) = (Arc::new(Charts::default()), Arc::new(Answers::new(&settings)));
        let mut request = axum::http::Request::new(()).into_parts().0;
        let Ok(client) = AnswerClient::from_request_parts(&mut request, &()).await;
        let all_memory = answers.reserve(PART_MEMORY, &client).await;
        let wait = || {
            let (charts, answers, client) = (charts.clone(), answers.clone(), client.clone());
            tokio::spawn(async move { drop(charts.turn(&answers, &client).await) })
        };
        let waiting: Vec<_> = (0..READS).map(|_| wait()).collect();
        while charts.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let all_turns = charts.0.acquire_many(u32::try_from(READS).unwrap());
        let all_turns = tokio::time::timeout(Duration::from_secs(60), all_turns).await.expect("the turns are given up");
        drop((all_memory, all_turns));
        for waiting in waiting {
            waiting.await.expect("it gets both in the end");
        }
    }
}
