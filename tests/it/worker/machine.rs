//! The load of the machine and its GPU.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::worker::{OBEDIENT, Surroundings};

/// As much of NVIDIA's management library as a worker calls, with a GPU as number 3.
const DRIVER: &str = r#"
#include <string.h>
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)8; return index == 3 ? 0 : 6; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) { strncpy(name, "Test GPU", size); return 0; }
int nvmlDeviceGetMemoryInfo_v2(void *device, memory *told) { told->total = 80ULL << 30; told->used = 3ULL << 30; return 0; }
int nvmlDeviceGetUtilizationRates(void *device, rates *told) { told->gpu = 42; told->memory = 7; return 0; }
"#;

fn build_driver(it: &Surroundings) {
    let source = it.file("driver.c");
    fs::write(&source, DRIVER).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(it.file("libnvidia-ml.so.1")).arg(&source);
    assert!(compiler.status().expect("there is a C compiler").success());
}

/// A worker that looks for its driver in the directory `libraries`.
fn start_worker(it: &Surroundings, device: &str, libraries: &Path) -> Process {
    let mut command = it.worker_command(device);
    command.env("LD_LIBRARY_PATH", libraries).env("CUDA_VISIBLE_DEVICES", "3");
    Process::start(command)
}

#[tokio::test]
async fn a_worker_tells_how_busy_its_machine_and_its_gpu_are() {
    let it = Surroundings::new(OBEDIENT).await;
    build_driver(&it);
    // What a worker on that device tells with its second heartbeat, and the memory of the device.
    let told = async |device: &'static str, libraries: &Path| {
        let worker = start_worker(&it, device, libraries);
        let usage = async || -> Option<(Value, Option<i64>)> {
            let query =
                "select usage, memory_bytes from workers where device = $1 and usage ->> 'cpu_share' is not null";
            sqlx::query_as(query).bind(device).fetch_optional(&it.db.pool).await.unwrap()
        };
        let told = it.db.until(usage).await.expect("the worker tells its usage");
        worker.terminate().await;
        told
    };
    let (usage, memory) = told("cuda:0", it.dir.path()).await;
    let gpu = json!({"name": "Test GPU", "busy_share": 0.42, "memory_used_bytes": 3_u64 << 30, "memory_total_bytes": 80_u64 << 30});
    assert_eq!((&usage["gpu"], memory), (&gpu, Some(80 << 30)));
    // Without a driver it tells of no GPU, and works all the same.
    let (usage, memory) = told("cpu", Path::new("")).await;
    assert_eq!((&usage["gpu"], memory), (&Value::Null, usage["memory_total_bytes"].as_i64()));
    assert!(usage["cpu_share"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{usage}");
}

#[tokio::test]
async fn a_job_on_a_gpu_has_a_series_of_the_memory_in_use_there() {
    let measured = r#"
started 0 0; point 1
for name in memory/resident_bytes train/top1; do
    say '{"type":"metrics","points":[{"name":"'$name'","step":2,"epoch":0.5,"time":"2026-01-01T00:00:00Z","value":7}]}'
done
finish
"#;
    let it = Surroundings::new(measured).await;
    build_driver(&it);
    for (device, libraries, in_use) in
        [("cuda:0", it.dir.path(), vec![(2, (3_u64 << 30) as f64)]), ("cpu", Path::new(""), vec![])]
    {
        let id = it.db.add_job(json!({})).await;
        let worker = start_worker(&it, device, libraries);
        it.db.until_status(id, "succeeded").await;
        worker.terminate().await;
        let query = "select step, value from metrics where job_id = $1 and name = 'memory/gpu_bytes'";
        let told: Vec<(i64, f64)> = sqlx::query_as(query).bind(id).fetch_all(&it.db.pool).await.unwrap();
        assert_eq!(told, in_use, "{device}");
    }
}

#[tokio::test]
async fn no_secret_of_the_environment_reaches_the_trainer() {
    let it = Surroundings::new(&format!("env > \"$here/environment\"\n{OBEDIENT}")).await;
    let secrets = [
        "NVIDIA_API_KEY",
        "LANGSMITH_API_KEY",
        "LANGFUSE_SECRET_KEY",
        "HOMEBREW_GITHUB_API_TOKEN",
        "PATH_TO_SECRET",
        "CUDA_REGISTRY_PASSWORD",
        "NCCL_AUTH_TOKEN",
        "PYTORCH_HUB_TOKEN",
        "CUDNN_DOWNLOAD_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "DISTILLERY_ADMIN_TOKEN",
        "DISTILLERY_THREADS_TOKEN",
    ];
    let settings = [
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "NCCL_DEBUG",
        "PYTORCH_CUDA_ALLOC_CONF",
        "CUDNN_LOGLEVEL_DBG",
        "CUBLAS_WORKSPACE_CONFIG",
        "TORCH_NCCL_TRACE_BUFFER_SIZE",
        "OMP_WAIT_POLICY",
        "LD_LIBRARY_PATH",
        "DISTILLERY_NO_SAMPLES",
    ];
    let mut command = it.worker_command("cpu");
    command
        .envs(secrets.map(|name| (name, "do-not-tell-0123456789-0123456789-0123")))
        .envs(settings.map(|name| (name, "")))
        .env_remove("CUDA_DEVICE_ORDER");
    let worker = Process::start(command);
    let job = it.db.add_job(json!({})).await;
    it.db.until_training(job).await;
    let environment = it.read("environment");
    assert!(!environment.contains("do-not-tell") && !environment.contains("DATABASE_URL"), "{environment}");
    for name in settings.into_iter().chain(["PATH", "HOME", "DISTILLERY_THREADS"]) {
        assert!(environment.lines().any(|line| line.starts_with(&format!("{name}="))), "{name}: {environment}");
    }
    // As the driver, which is asked how busy a GPU is, counts them.
    assert!(environment.lines().any(|line| line == "CUDA_DEVICE_ORDER=PCI_BUS_ID"), "{environment}");
    worker.terminate().await;
}
