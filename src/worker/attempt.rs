//! One attempt at a job: prepares its directory, runs its trainer, records what the trainer reports, and settles how it
//! ended.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::{AttemptError, broken_gpu, storage_failure};
use super::health::{self, MachineVerdict};
use super::inputs::Prepared;
use super::lease::{Lease, LeaseState};
use super::monitor::Gpus;
use super::names::FileNames;
use super::record::{Recorder, held};
use super::silence::{LongSilence, Silence};
use super::trainer::{Trainer, TrainerRun};
use super::{WorkerContext, explain, inputs, outputs};
use crate::dataset;
use crate::db::listen::Wakeups;
use crate::db::metrics;
use crate::db::queue::{self, Claim, FencingToken, ReportBatch};
use crate::process;
use crate::protocol::{ErrorClass, Event, Failure, Level, Outcome, Point, StopRequest, series};

/// How long reports are collected before they are written together.
const GATHER: Duration = Duration::from_millis(250);

/// Most points written by one statement.
const POINTS_AT_ONCE: usize = 5000;

/// How a trainer reports that it ended.
#[derive(Debug)]
enum ReportedEnd {
    Finished(Outcome),
    Stopped,
    Failed(Failure),
}

/// Works on a claimed job with these devices until it ends, or is lost, cancelled, paused or released. Returns what
/// that says about this machine.
pub(super) async fn run(
    context: &WorkerContext,
    claim: Claim,
    devices: &[String],
    wakeups: &Wakeups,
    drain: &CancellationToken,
) -> MachineVerdict {
    let token = claim.token.clone();
    tracing::info!(job = token.job, attempt = token.attempt, "starting");
    let lease = Lease::keep(context, &token, wakeups.statuses());
    let record = Recorder::new(context, token.clone(), lease.state.clone());
    let attempt = RunningAttempt {
        context,
        token: token.clone(),
        devices,
        gpus: Gpus::among(devices),
        record,
        dataset: RefCell::default(),
        has_reported: Cell::new(false),
        has_started: Cell::new(false),
        was_killed: Cell::new(false),
    };
    let outcome = attempt.work(&claim, drain).await;
    let mut verdict = if attempt.has_started.get() { MachineVerdict::Fine } else { MachineVerdict::Unknown };
    let settled = match outcome {
        Ok(()) => Ok(()),
        Err(AttemptError::Failed(failure)) => {
            let (failure, blamed) = attempt.blame(failure, &claim).await;
            verdict = blamed.unwrap_or(verdict);
            tracing::warn!(job = token.job, attempt = token.attempt, class = ?failure.class, failure.message, "failed");
            attempt.record.persist(async |pool, write| queue::fail(pool, write, &failure).await).await.map(drop)
        }
        Err(lost) => Err(lost),
    };
    if let Err(error) = settled {
        tracing::warn!(job = token.job, attempt = token.attempt, ?error, "stopped without writing a result");
    }
    drop(lease);
    inputs::remove(&context.settings, &token).await;
    verdict
}

struct RunningAttempt<'a> {
    context: &'a WorkerContext,
    token: FencingToken,
    devices: &'a [String],
    gpus: Gpus,
    record: Recorder<'a>,
    /// This machine's copy of its uploaded data set.
    dataset: RefCell<Option<PathBuf>>,
    /// Whether its trainer has said anything.
    has_reported: Cell<bool>,
    /// Whether its trainer has said that it trains.
    has_started: Cell<bool>,
    /// Whether its trainer was killed because it did not stop, or did not exit after its end.
    was_killed: Cell<bool>,
}

impl RunningAttempt<'_> {
    /// Finds out whether a failure is the fault of this machine rather than of the job. Returns the failure as it is to
    /// be recorded, and what it says about the machine if it says anything.
    async fn blame(&self, failure: Failure, claim: &Claim) -> (Failure, Option<MachineVerdict>) {
        if matches!(failure.class, ErrorClass::Oom | ErrorClass::Numeric) {
            return (failure, None);
        }
        if let Some(device) = broken_gpu(&failure, self.devices) {
            let (device, because) = (device.to_owned(), format!("{device}: {}", failure.message));
            return (failure, Some(MachineVerdict::BrokenGpu { device, because }));
        }
        let settings = &self.context.settings;
        let of_machine = |message| Failure { class: ErrorClass::Machine, message };
        if let Err(reason) = health::check(settings, self.devices).await {
            let message = format!("{reason} (the attempt ended with: {})", failure.message);
            return (of_machine(message), Some(MachineVerdict::Broken(reason)));
        }
        let name = &claim.spec.dataset.location.name;
        if let (ErrorClass::User, Some(expected)) = (failure.class, &claim.dataset_fingerprint) {
            let path = self.dataset.take().unwrap_or_else(|| settings.datasets_dir.join(name));
            let found = tokio::task::spawn_blocking(move || dataset::fingerprint(&path).ok()).await.ok().flatten();
            if found.as_ref() != Some(expected) {
                let message = format!(
                    "this worker's copy of the data set {name:?} has changed in the meantime: {}",
                    failure.message
                );
                return (of_machine(message), Some(MachineVerdict::Unknown));
            }
        }
        let verdict = (failure.class == ErrorClass::Machine).then(|| MachineVerdict::Fault(failure.message.clone()));
        (failure, verdict)
    }

    async fn work(&self, claim: &Claim, drain: &CancellationToken) -> Result<(), AttemptError> {
        let prepared = match inputs::prepare(self.context, claim, &self.record, drain).await {
            Err(AttemptError::Stopped) => return self.stop().await,
            prepared => prepared?,
        };
        let Prepared { directory, resumes, lock: _lock, dataset, names } = prepared;
        self.dataset.replace(dataset.as_ref().map(|copy| copy.path().to_owned()));
        let output = directory.join("output");
        let kills_before = process::out_of_memory_kills();
        let settings = &self.context.settings;
        let run = TrainerRun {
            attempt: self.token.attempt,
            pause_after: claim.pause_after,
            cache_scales: &claim.sweep_scales,
        };
        let mut trainer = Trainer::start(settings, &directory, self.devices, run).map_err(|error| {
            AttemptError::Failed(Failure { class: ErrorClass::Machine, message: format!("{error:#}") })
        })?;
        let (_, nothing) = mpsc::channel(1);
        let events = std::mem::replace(&mut trainer.events, nothing);
        let (abandon, ended) = (CancellationToken::new(), CancellationToken::new());
        let recorded = async {
            let recorded = self.listen(events, &names, &output, resumes).await;
            if recorded.is_err() {
                abandon.cancel();
            }
            ended.cancel();
            recorded
        };
        let (status, recorded) = tokio::join!(self.steer(&mut trainer, drain, &abandon, &ended), recorded);
        let end = recorded?;
        if self.was_killed.get() {
            let what = if end.is_some() { "reported its end and did not exit" } else { "was told to stop and did not" };
            let patience = settings.stop_patience.as_secs_f64();
            let message = format!("the trainer {what} within {patience} seconds, so the worker killed it");
            self.warn(message).await?;
        }
        match end {
            Some(ReportedEnd::Finished(outcome)) => self.publish(&outcome, &output, &names).await,
            Some(ReportedEnd::Stopped) => self.stop().await,
            Some(ReportedEnd::Failed(failure)) => Err(AttemptError::Failed(explain::of_trainer(failure))),
            None if self.record.lease_state() == LeaseState::Lost => Err(AttemptError::Lost),
            // Killed because it did not stop in time; the request still takes effect.
            None if self.record.lease_state() != LeaseState::Held(None) || drain.is_cancelled() => self.stop().await,
            None => {
                let starved = process::out_of_memory_kills() > kills_before;
                let last_words = names.in_place_of_paths(trainer.last_words().await);
                let failure = explain::unexplained(status, starved, &last_words);
                Err(AttemptError::Failed(if self.has_reported.get() {
                    failure
                } else {
                    explain::of_silent_trainer(failure)
                }))
            }
        }
    }

    /// Passes on stop requests until the trainer has ended.
    async fn steer(
        &self,
        trainer: &mut Trainer,
        drain: &CancellationToken,
        abandon: &CancellationToken,
        ended: &CancellationToken,
    ) -> ExitStatus {
        let patience = self.context.settings.stop_patience;
        let mut lease = self.record.watch();
        let mut draining = false;
        let mut patience_ends: Option<Instant> = None;
        loop {
            let state = *lease.borrow_and_update();
            let request = match state {
                LeaseState::Held(None) if draining => Some(StopRequest::Pause),
                LeaseState::Held(request) => request,
                LeaseState::Lost => {
                    trainer.child.signal(Signal::KILL);
                    return trainer.child.wait().await;
                }
            };
            if let Some(request) = request {
                trainer.request_stop(request).await;
                patience_ends = Some(patience_ends.unwrap_or_else(|| Instant::now() + patience));
            }
            tokio::select! {
                status = trainer.child.wait() => return status,
                // An error would mean that the lease is no longer renewed, which happens only after this loop.
                _ = lease.changed() => {}
                () = drain.cancelled(), if !draining => draining = true,
                () = abandon.cancelled() => {}
                // The trainer has reported its end, so its process should exit soon.
                () = ended.cancelled(), if patience_ends.is_none() => patience_ends = Some(Instant::now() + patience),
                () = sleep_until(patience_ends) => {}
            }
            // Not in a branch above: when several are ready at once, any of them may be taken.
            if abandon.is_cancelled() || patience_ends.is_some_and(|end| end <= Instant::now()) {
                self.was_killed.set(!abandon.is_cancelled());
                trainer.child.signal(Signal::KILL);
                return trainer.child.wait().await;
            }
        }
    }

    /// Records what the trainer reports until its output ends. Returns how it said it ended; `None` if it did not say.
    /// `resumes` is the number of the attempt whose state it resumes from.
    async fn listen(
        &self,
        mut events: mpsc::Receiver<Event>,
        names: &FileNames,
        output: &Path,
        resumes: Option<i32>,
    ) -> Result<Option<ReportedEnd>, AttemptError> {
        let mut batch = ReportBatch::default();
        let mut write_at: Option<Instant> = None;
        let mut silence = Silence::new(&self.context.settings, self.devices);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = sleep_until(write_at) => {
                    self.write(&mut batch).await?;
                    write_at = None;
                    continue;
                }
                grown = silence.grown() => {
                    match grown {
                        LongSilence::Warned(warning) => {
                            silence.told();
                            self.warn(warning).await?;
                        }
                        // The caller kills the trainer.
                        LongSilence::Stalled(failure) if events.is_empty() => return Err(AttemptError::Failed(failure)),
                        LongSilence::Stalled(_) => {}
                    }
                    continue;
                }
            };
            silence.heard(self.has_started.get() || matches!(event, Some(Event::Started(_))));
            self.has_reported.set(self.has_reported.get() || event.is_some());
            match event {
                Some(Event::Progress(progress)) => batch.progress = Some(progress),
                Some(Event::Metrics { points }) => batch.points.extend(points),
                Some(Event::Log { level, message }) => batch.logs.push((level, names.in_place_of_paths(message))),
                // A milestone: everything before it is written first.
                milestone => {
                    self.write(&mut batch).await?;
                    write_at = None;
                    match milestone {
                        Some(Event::Finished(outcome)) => return Ok(Some(ReportedEnd::Finished(outcome))),
                        Some(Event::Stopped { .. }) => return Ok(Some(ReportedEnd::Stopped)),
                        Some(Event::Failed(Failure { class, message })) => {
                            let message = names.in_place_of_paths(message);
                            return Ok(Some(ReportedEnd::Failed(Failure { class, message })));
                        }
                        Some(event) => self.milestone(event, names, output, resumes).await?,
                        None => return Ok(None),
                    }
                    continue;
                }
            }
            write_at = Some(write_at.unwrap_or_else(|| Instant::now() + GATHER));
        }
    }

    async fn milestone(
        &self,
        event: Event,
        names: &FileNames,
        output: &Path,
        resumes: Option<i32>,
    ) -> Result<(), AttemptError> {
        let token = &self.token;
        match event {
            Event::Started(started) => {
                if let Some(earlier) = resumes {
                    self.catch_up(earlier, started.resumed_step, output).await?;
                }
                self.record.persist(async |pool, write| held(queue::started(pool, write, &started).await)).await?;
                self.has_started.set(true);
                Ok(())
            }
            Event::Teacher(evaluation) => {
                self.record
                    .persist(async |pool, write| held(queue::teacher_evaluated(pool, write, &evaluation).await))
                    .await
            }
            Event::Checkpoint { epoch, step } => {
                match outputs::save_checkpoint(self.context, token, output, epoch, step).await {
                    Ok(saved) => {
                        self.record
                            .persist(async |pool, write| held(queue::checkpoint_saved(pool, write, &saved).await))
                            .await?;
                        self.context.proven.notify_one();
                        outputs::forget_older(self.context, token, &saved).await;
                        Ok(())
                    }
                    // The attempt continues: storing the next checkpoint may succeed.
                    Err(error) => {
                        let message = format!("the checkpoint of epoch {epoch} could not be stored: {error}");
                        self.warn(names.in_place_of_paths(message)).await
                    }
                }
            }
            _ => Ok(()),
        }
    }

    /// Records the points that an earlier attempt wrote before the state that this one resumed from, but that did not
    /// reach the database because its worker was killed first.
    async fn catch_up(&self, earlier: i32, resumed_step: u64, output: &Path) -> Result<(), AttemptError> {
        let known = self.record.query(async |pool| metrics::newest_step(pool, &self.token.job).await).await?;
        let missed = outputs::points_between(output, known, resumed_step).await;
        for points in missed.chunks(POINTS_AT_ONCE) {
            self.record.persist(async |pool, write| held(queue::adopt(pool, write, earlier, points).await)).await?;
        }
        Ok(())
    }

    /// Adds a warning to the job's history, and to the log.
    async fn warn(&self, message: String) -> Result<(), AttemptError> {
        tracing::warn!(job = self.token.job, attempt = self.token.attempt, "{message}");
        self.write(&mut ReportBatch { logs: vec![(Level::Warning, message)], ..ReportBatch::default() }).await
    }

    async fn write(&self, batch: &mut ReportBatch) -> Result<(), AttemptError> {
        let mut batch = std::mem::take(batch);
        if batch.progress.is_none() && batch.points.is_empty() && batch.logs.is_empty() {
            return Ok(());
        }
        let gpu_memory = self.gpu_memory(&batch.points);
        batch.points.extend(gpu_memory);
        self.record.persist(async |pool, write| held(queue::record(pool, write, &batch).await)).await
    }

    /// The memory in use on the job's GPUs, as a point at the step of the newest point for the trainer's own memory.
    /// The worker measures it because the trainer cannot query libtorch's allocator.
    fn gpu_memory(&self, points: &[Point]) -> Option<Point> {
        let own = points.iter().rev().find(|point| point.name == series::RESIDENT_BYTES)?;
        let in_use = self.gpus.memory_in_use()?;
        Some(Point { name: series::GPU_BYTES.to_owned(), value: in_use as f64, ..own.clone() })
    }

    async fn publish(&self, outcome: &Outcome, output: &Path, names: &FileNames) -> Result<(), AttemptError> {
        let artifacts = outputs::store(self.context, &self.token, output, names)
            .await
            .map_err(|error| AttemptError::Failed(storage_failure(&error)))?;
        self.record.persist(async |pool, write| held(queue::publish(pool, write, outcome, &artifacts).await)).await?;
        tracing::info!(job = self.token.job, attempt = self.token.attempt, top1 = outcome.best_top1, "succeeded");
        outputs::tidy(self.context, &self.token.job, &artifacts).await;
        Ok(())
    }

    async fn stop(&self) -> Result<(), AttemptError> {
        let status = self.record.persist(async |pool, write| queue::stopped(pool, write).await).await?;
        tracing::info!(job = self.token.job, attempt = self.token.attempt, status = status.name(), "stopped");
        Ok(())
    }
}

async fn sleep_until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
