//! What an attempt reports while its trainer runs.

use serde_json::json;
use sqlx::PgPool;

use super::{HeldJob, SavedCheckpoint, Write};
use crate::db::events::{self, EventKind, NewEvent};
use crate::db::{attempts, metrics};
use crate::protocol::{Evaluation, Level, Point, Progress, Started};
use crate::text::counted;

/// What a trainer has reported since the last write.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReportBatch {
    pub progress: Option<Progress>,
    /// New points, in order.
    pub points: Vec<Point>,
    /// Lines for the history.
    pub logs: Vec<(Level, String)>,
}

/// Notes that training began. Removes the points that a lost attempt recorded after the state that this one resumed
/// from. False if the attempt no longer holds the job; the functions below return the same.
pub async fn started(pool: &PgPool, write: &Write, started: &Started) -> sqlx::Result<bool> {
    let written = HeldJob::change(pool, write, async |job| {
        metrics::delete_after(&mut job.transaction, &job.token.job, started.resumed_step).await?;
        attempts::note_start(&mut job.transaction, job.token, started).await?;
        let event = NewEvent { kind: EventKind::Log, message: describe(started), data: Some(json!(started)) };
        events::append(&mut job.transaction, &job.token.job, &[event]).await?;
        Ok(job.status)
    });
    Ok(written.await?.is_some())
}

fn describe(started: &Started) -> String {
    let resumed = match started.resumed_epochs {
        0 if started.resumed_step == 0 => String::new(),
        epochs => format!(", resumed after epoch {epochs} (step {})", started.resumed_step),
    };
    format!(
        "training on {} in {}: {}, {}, {} of {}{resumed}",
        started.device,
        started.precision,
        counted(started.train_images, "image", "images"),
        counted(started.classes, "class", "classes"),
        counted(started.epochs, "epoch", "epochs"),
        counted(started.steps_per_epoch, "step", "steps")
    )
}

/// Notes the teacher's accuracy.
pub async fn teacher_evaluated(pool: &PgPool, write: &Write, evaluation: &Evaluation) -> sqlx::Result<bool> {
    let written = HeldJob::change(pool, write, async |job| {
        sqlx::query!("update jobs set teacher = $2 where id = $1", job.token.job, json!(evaluation))
            .execute(&mut *job.transaction)
            .await?;
        let images = counted(evaluation.images, "image", "images");
        let message = format!("the teacher's top-1 accuracy is {:.2} % of {images}", evaluation.top1);
        let event = NewEvent { kind: EventKind::Teacher, message, data: Some(json!(evaluation)) };
        events::append(&mut job.transaction, &job.token.job, &[event]).await?;
        Ok(job.status)
    });
    Ok(written.await?.is_some())
}

pub async fn record(pool: &PgPool, write: &Write, batch: &ReportBatch) -> sqlx::Result<bool> {
    let written = HeldJob::change(pool, write, async |job| {
        if let Some(progress) = &batch.progress {
            sqlx::query!("update jobs set progress = $2 where id = $1", job.token.job, json!(progress))
                .execute(&mut *job.transaction)
                .await?;
        }
        metrics::insert(&mut job.transaction, &job.token.job, job.token.attempt, &batch.points).await?;
        let lines: Vec<NewEvent> = batch.logs.iter().map(|(level, message)| log_event(*level, message)).collect();
        events::append(&mut job.transaction, &job.token.job, &lines).await?;
        Ok(job.status)
    });
    Ok(written.await?.is_some())
}

fn log_event(level: Level, message: &str) -> NewEvent {
    let kind = match level {
        Level::Info => EventKind::Log,
        Level::Warning => EventKind::Warning,
    };
    NewEvent { kind, message: message.to_owned(), data: None }
}

/// Writes points that an earlier attempt made and could not write.
pub async fn adopt(pool: &PgPool, write: &Write, earlier: i32, points: &[Point]) -> sqlx::Result<bool> {
    let written = HeldJob::change(pool, write, async |job| {
        metrics::insert(&mut job.transaction, &job.token.job, earlier, points).await?;
        Ok(job.status)
    });
    Ok(written.await?.is_some())
}

/// Notes the state that the next attempt can resume from.
pub async fn checkpoint_saved(pool: &PgPool, write: &Write, saved: &SavedCheckpoint) -> sqlx::Result<bool> {
    let written = HeldJob::change(pool, write, async |job| {
        sqlx::query!("update jobs set checkpoint = $2 where id = $1", job.token.job, json!(saved))
            .execute(&mut *job.transaction)
            .await?;
        attempts::note_checkpoint(&mut job.transaction, job.token, saved.step).await?;
        let message = format!("checkpoint after epoch {} (step {})", saved.epoch, saved.step);
        let data = Some(json!({"epoch": saved.epoch, "step": saved.step}));
        let event = NewEvent { kind: EventKind::Checkpoint, message, data };
        events::append(&mut job.transaction, &job.token.job, &[event]).await?;
        Ok(job.status)
    });
    Ok(written.await?.is_some())
}
