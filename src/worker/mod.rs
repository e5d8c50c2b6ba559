//! A worker: takes as many jobs from the queue as its devices allow, and runs each attempt in a trainer process.
//!
//! The worker itself does no tensor computation. Each write about a job carries the attempt's fencing token, so a
//! worker that has lost its lease changes nothing.

mod attempt;
mod datasets;
mod explain;
mod failure;
mod health;
mod inputs;
mod lease;
mod machine;
mod monitor;
mod names;
mod outputs;
mod record;
mod rescuer;
mod silence;
pub mod supervise;
mod trainer;
mod uploads;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Store;
use crate::cli::WorkerArgs;
use crate::dataset_cache::DatasetCache;
use crate::db::errors::Transient;
use crate::db::listen::Wakeups;
use crate::db::queue::{self, Claim, DeviceCapacity};
use crate::db::workers::{self, Abilities, NewWorker};
use crate::storage_check::{self, Opener};
use crate::{db, process};

use datasets::Datasets;
use health::{MachineVerdict, WorkerHealth};
use monitor::Monitor;

pub use trainer::program as trainer_program;

/// How often to query the queue even without a notification, since notifications can be lost.
const POLL: Duration = Duration::from_secs(5);
/// A trainer stops at its next step. One that takes longer than this is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(45);

/// How long a trainer may say nothing before the job's history says so. Reading a large data set takes minutes.
const SILENCE: Duration = Duration::from_secs(600);

/// Time until the machine is checked again after its first fault.
const RECHECK: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Name shown on the dashboard.
    pub name: String,
    /// Devices, such as `cpu` or `cuda:0`. A worker with several runs several jobs at once, or a job on several
    /// devices.
    pub devices: Vec<String>,
    /// Path of the trainer's executable.
    pub trainer: PathBuf,
    /// Directory of the data sets.
    pub datasets_dir: PathBuf,
    /// Whether symbolic links that lead out of a data set are followed.
    pub follow_links: bool,
    /// This machine's copies of uploaded data sets.
    pub dataset_cache: DatasetCache,
    /// Directory with a subdirectory for each running attempt.
    pub work_dir: PathBuf,
    /// Directory for what later attempts can reuse.
    pub cache_dir: PathBuf,
    /// Most MiB in the cache directory; 0 turns caching off.
    pub cache_mib: u64,
    /// How long a job stays with its worker without a heartbeat.
    pub lease: Duration,
    /// How long to wait for a notification before the queue is queried anyway.
    pub poll: Duration,
    /// How long a trainer may take to exit after a stop request, or after it has reported its end.
    pub stop_patience: Duration,
    /// How long a trainer may say nothing before the job's history says so.
    pub silence: Duration,
    /// How long a trainer that trains on a GPU may say nothing before the GPU is taken to hang; `None` for ever.
    pub stalled: Option<Duration>,
    /// How long the worker takes no jobs after a fault of its machine, at first; it doubles while the fault lasts.
    pub recheck: Duration,
}

impl WorkerSettings {
    fn new(args: &WorkerArgs) -> anyhow::Result<Self> {
        let devices = machine::devices(&args.device)?;
        let data_dir = std::path::absolute(&args.data.data_dir)?;
        Ok(Self {
            name: args.name.clone().unwrap_or_else(|| format!("{}/{}", machine::host_name(), machine::label(&devices))),
            trainer: trainer_program(args.trainer.as_deref())?,
            datasets_dir: std::path::absolute(&args.data.datasets_dir)?,
            follow_links: args.data.follow_links,
            dataset_cache: args.data.dataset_cache()?,
            work_dir: data_dir.join("work"),
            cache_dir: data_dir.join("cache"),
            cache_mib: args.cache_mib,
            lease: Duration::from_secs(args.lease_seconds),
            poll: POLL,
            stop_patience: STOP_PATIENCE,
            silence: SILENCE,
            stalled: Some(Duration::from_secs(60 * args.stalled_minutes)).filter(|stalled| !stalled.is_zero()),
            recheck: RECHECK,
            devices,
        })
    }

    /// Time between heartbeats. The lease survives one that is lost and a late one after it.
    fn heartbeat(&self) -> Duration {
        self.lease / 4
    }
}

/// Shared by all parts of a worker.
#[derive(Debug, Clone)]
struct WorkerContext {
    id: String,
    pool: PgPool,
    store: Store,
    settings: WorkerSettings,
    datasets: Arc<Datasets>,
    /// What the worker tells others with each heartbeat.
    abilities: Arc<watch::Sender<Abilities>>,
    /// Notified when an attempt has stored a checkpoint, which shows that the machine works.
    proven: Arc<Notify>,
    /// GPUs that are not used again, because their hardware reported an error.
    broken: Arc<Mutex<BTreeSet<String>>>,
}

impl WorkerContext {
    /// The devices that can be used.
    fn devices(&self) -> Vec<String> {
        // The set is consistent between any two statements, so a panic elsewhere does not spoil it.
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        self.settings.devices.iter().filter(|&device| !broken.contains(device)).cloned().collect()
    }

    /// Uses a GPU no more.
    fn give_up(&self, device: String, because: &str) {
        tracing::error!(device, because, "this worker does not use a GPU until it is started again");
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).insert(device);
    }

    /// Tells others what the worker can run, if that has changed.
    async fn tell(&self, abilities: Abilities) {
        if *self.abilities.borrow() == abilities {
            return;
        }
        if let Err(error) = workers::describe(&self.pool, &self.id, &abilities).await {
            tracing::warn!(%error, "cannot tell what this worker can run; its next heartbeat will");
        }
        self.abilities.send_replace(abilities);
    }
}

/// `distillery worker`: works until SIGTERM or SIGINT, then releases its jobs.
///
/// # Errors
/// The worker cannot start: the database, the storage or the trainer's executable is not available.
pub async fn run_until_told(args: WorkerArgs) -> anyhow::Result<()> {
    let told_to_stop = process::shutdown::on_signal()?;
    let settings = WorkerSettings::new(&args)?;
    args.data.warn_without_datasets();
    let Some(pool) = db::open_when_there(&args.database_url, &told_to_stop).await? else { return Ok(()) };
    let storage = args.data.storage();
    let opened = storage_check::open_when_there(&storage, &pool, Opener::Worker, &told_to_stop).await?;
    let Some(store) = opened else { return Ok(()) };
    // A worker that does not start leaves nothing behind.
    db::embedded::create_private(&args.data.data_dir)?;
    run(pool, store, settings, told_to_stop).await
}

/// Works until `drain` is cancelled. Each job in progress then stops at a checkpoint, and returns to the queue.
///
/// # Errors
/// The worker cannot be registered in the database.
pub async fn run(pool: PgPool, store: Store, settings: WorkerSettings, drain: CancellationToken) -> anyhow::Result<()> {
    let id = format!("wrk_{}", ulid::Ulid::generate().to_string().to_ascii_lowercase());
    let monitor = Monitor::new(settings.devices.first().map_or("cpu", String::as_str));
    let datasets = Arc::new(Datasets::below(settings.datasets_dir.clone()));
    let context = WorkerContext {
        id,
        pool,
        store,
        settings,
        datasets,
        abilities: Arc::default(),
        proven: Arc::default(),
        broken: Arc::default(),
    };
    let health = WorkerHealth::unknown(context.settings.recheck);
    context.abilities.send_replace(abilities(&context, &health).await);
    let Some((wakeups, monitor)) = announce(&context, monitor, &drain).await? else { return Ok(()) };
    inputs::remove_leftovers(&context).await;
    let helpers = CancellationToken::new();
    let presence = tokio::spawn(helpers.clone().run_until_cancelled_owned(keep_present(context.clone(), monitor)));
    let rescuer = tokio::spawn(helpers.clone().run_until_cancelled_owned(rescuer::run(context.clone())));
    LocalSet::new().run_until(work(&context, health, &wakeups, &drain)).await;
    helpers.cancel();
    let _ = tokio::join!(presence, rescuer);
    if let Err(error) = workers::forget(&context.pool, &context.id).await {
        tracing::warn!(%error, "cannot unregister the worker; it will disappear from the list later");
    }
    Ok(())
}

/// Registers the worker and starts to listen, before the first query of the queue, so that no notification is missed
/// in between. Waits for a database that is down or read-only; `None` if `drain` is cancelled first.
async fn announce(
    context: &WorkerContext,
    mut monitor: Monitor,
    drain: &CancellationToken,
) -> anyhow::Result<Option<(Arc<Wakeups>, Monitor)>> {
    loop {
        let announced = async {
            register(context, &mut monitor).await?;
            Wakeups::listen(&context.pool).await
        };
        match announced.await {
            Ok(wakeups) => return Ok(Some((Arc::new(wakeups), monitor))),
            Err(error) if Transient::of(&error).is_none() => return Err(error).context("cannot register the worker"),
            Err(error) => tracing::warn!(%error, "cannot register the worker; trying again"),
        }
        tokio::select! {
            () = drain.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Devices that no job uses, in the order of the command line.
struct Free(Vec<(usize, String)>);

impl Free {
    fn take(&mut self, count: usize) -> Vec<(usize, String)> {
        self.0.drain(..count.min(self.0.len())).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(_, name)| name.clone()).collect()
    }

    /// Gives back those that can still be used.
    fn give_back(&mut self, devices: Vec<(usize, String)>, usable: &[String]) {
        self.0.extend(devices.into_iter().filter(|(_, name)| usable.contains(name)));
        self.0.sort_unstable();
    }
}

async fn work(context: &WorkerContext, mut health: WorkerHealth, wakeups: &Arc<Wakeups>, drain: &CancellationToken) {
    let mut free = Free(context.settings.devices.iter().cloned().enumerate().collect());
    // Separate tasks, so that attempts are supervised even while a query of the queue waits for the database.
    let mut attempts = JoinSet::new();
    while !(drain.is_cancelled() && attempts.is_empty()) {
        let woken = wakeups.queue.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        // Read before the query: if it changes during the query, the wait below ends at once.
        let draining = drain.is_cancelled();
        let check_at = health.check_at().filter(|_| !draining);
        if check_at.is_some_and(|at| at <= Instant::now()) {
            let unused = free.names();
            if let Some(checked) = drain.run_until_cancelled(health::check(&context.settings, &unused)).await {
                health.checked(checked);
                context.tell(abilities(context, &health).await).await;
                if health.stopped_because().is_none() {
                    let WorkerSettings { name, devices, .. } = &context.settings;
                    tracing::info!(worker = name, device = devices.join(","), "ready for jobs");
                }
            }
            continue;
        }
        let pause = if let Some(at) = check_at {
            Some(at.duration_since(Instant::now()))
        } else if draining || free.0.is_empty() || (health.is_on_trial() && !attempts.is_empty()) {
            None
        } else {
            context.tell(abilities(context, &health).await).await;
            match claim(context, &free).await {
                Ok(claim) => {
                    let devices = free.take(claim.spec.training.devices as usize);
                    let (context, wakeups, drain) = (context.clone(), Arc::clone(wakeups), drain.clone());
                    attempts.spawn_local(async move {
                        let names: Vec<String> = devices.iter().map(|(_, name)| name.clone()).collect();
                        (attempt::run(&context, claim, &names, &wakeups, &drain).await, devices)
                    });
                    continue;
                }
                Err(pause) => Some(pause),
            }
        };
        tokio::select! {
            () = woken => {}
            () = pause_for(pause) => {}
            () = drain.cancelled(), if !draining => {}
            () = context.proven.notified() => health.ended(MachineVerdict::Fine),
            Some(ended) = attempts.join_next() => match ended {
                Ok((verdict, devices)) => {
                    learn(context, &mut health, verdict);
                    free.give_back(devices, &context.devices());
                    context.tell(abilities(context, &health).await).await;
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
    }
}

/// Takes into account what the end of an attempt says about the machine.
fn learn(context: &WorkerContext, health: &mut WorkerHealth, verdict: MachineVerdict) {
    if let MachineVerdict::BrokenGpu { device, because } = &verdict {
        context.give_up(device.clone(), because);
        if context.devices().is_empty() {
            health.stop_for_good(format!("all its GPUs are broken, the last: {because}"));
        }
    }
    health.ended(verdict);
}

/// What the worker can run now.
async fn abilities(context: &WorkerContext, health: &WorkerHealth) -> Abilities {
    let datasets = context.datasets.fingerprints().await;
    let room = i64::try_from(context.settings.dataset_cache.limit()).unwrap_or(i64::MAX);
    let dataset_cache_bytes = (room > 0).then_some(room);
    Abilities { datasets, stopped_because: health.stopped_because().map(str::to_owned), dataset_cache_bytes }
}

/// Claims the next job that fits the free devices, or returns how long to wait before the next try.
async fn claim(context: &WorkerContext, free: &Free) -> Result<Claim, Duration> {
    let count = |devices: usize| i32::try_from(devices).unwrap_or(i32::MAX);
    let capacity = DeviceCapacity { total: count(context.devices().len()), free: count(free.0.len()) };
    match queue::claim(&context.pool, &context.id, capacity, context.settings.lease).await {
        Ok(Some(claim)) => Ok(claim),
        Ok(None) => match queue::until_next(&context.pool).await {
            Ok(Some(wait)) => Err(wait.min(context.settings.poll)),
            _ => Err(context.settings.poll),
        },
        Err(error) => {
            tracing::warn!(%error, "cannot query the queue");
            Err(Duration::from_secs(1))
        }
    }
}

async fn pause_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Registers the worker or renews its registration, which the database drops after a long silence.
async fn register(context: &WorkerContext, monitor: &mut Monitor) -> sqlx::Result<()> {
    let usage = monitor.read();
    // One whose GPUs are all broken says so, and is still known by them.
    let usable = Some(context.devices()).filter(|usable| !usable.is_empty());
    let devices = usable.unwrap_or_else(|| context.settings.devices.clone());
    let worker = NewWorker {
        id: context.id.clone(),
        name: context.settings.name.clone(),
        device: devices.join(","),
        devices: i32::try_from(devices.len()).unwrap_or(i32::MAX),
        memory_bytes: context.settings.devices.first().and_then(|device| usage.memory_of(device)),
        usage,
        abilities: Some(context.abilities.borrow().clone()),
    };
    workers::register(&context.pool, &worker).await
}

async fn keep_present(context: WorkerContext, mut monitor: Monitor) {
    loop {
        tokio::time::sleep(context.settings.heartbeat()).await;
        if let Err(error) = register(&context, &mut monitor).await {
            tracing::warn!(%error, "cannot renew the registration of this worker");
        }
    }
}
