//! `/v1/jobs/{id}/tensorboard`

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt, stream};

use crate::db::metrics;
use crate::http::answers::{self, AnswerClient};
use crate::http::error::ApiError;
use crate::http::extract::JobId;
use crate::http::v1::jobs;
use crate::http::{AppState, event_file};

/// Points that are read at a time.
const PART: i64 = 2000;

/// Download a job's metrics for TensorBoard
///
/// An event file with every point that the job has now, also while it runs: put it into a directory below
/// `--logdir`. Values are float32. Series of jobs that ended long ago are thinned, as everywhere.
#[utoipa::path(get, path = "/v1/jobs/{id}/tensorboard", tag = "artifacts", operation_id = "get_tensorboard",
    params(("id" = String, Path, description = "Id of the job")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream",
        headers(("Content-Disposition" = String, description = "The file name, by which TensorBoard finds it")))))]
pub async fn get(State(state): State<AppState>, id: JobId, client: AnswerClient) -> Result<Response, ApiError> {
    let job = jobs::find(&state, &id).await?;
    let disposition = format!("attachment; filename=\"{}\"", event_file::name(&job.id, job.created_at));
    // Points that come later are not waited for.
    let newest = metrics::newest(&state.pool, &id.0).await?;
    let mut file = EventFile { state, client, job: job.id, after: 0, newest };
    let start = Bytes::from(event_file::beginning(job.created_at));
    // Before the status is sent, so that it can say that this failed.
    let first = file.next().await?;
    let rest = stream::try_unfold(file, |mut file| async move {
        let records = file.next().await?;
        Ok::<_, sqlx::Error>(records.map(|records| (records, file)))
    });
    let pieces = stream::iter([start].into_iter().chain(first).map(Ok)).chain(rest);
    let pieces = pieces.inspect_err(|error| tracing::warn!(%error, "an event file ends early"));
    let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(answers::let_go(pieces))).into_response())
}

/// A file, which is read and written in parts as the client takes them.
struct EventFile {
    state: AppState,
    client: AnswerClient,
    job: String,
    /// Id of the last point that was written.
    after: i64,
    /// Id of the last point of the file.
    newest: i64,
}

impl EventFile {
    /// The records of the next part; `None` at the end.
    async fn next(&mut self) -> sqlx::Result<Option<Bytes>> {
        if self.after >= self.newest {
            return Ok(None);
        }
        let (turn, memory) = self.state.charts.turn(&self.state.answers, &self.client).await;
        let mut points = metrics::list(&self.state.pool, &self.job, self.after, PART).await?;
        drop(turn);
        points.retain(|point| point.id <= self.newest);
        // None are left where a newer attempt or a deletion has removed them meanwhile.
        self.after = points.last().map_or(self.newest, |last| last.id);
        Ok(Some(memory.hold(event_file::records(&points))))
    }
}
