#!/usr/bin/env python3
"""Tests whether SDD helps: trains a pair with every method and several seeds on a running server, and prints mean and
standard deviation beside the published figures.

    distillery serve --datasets-dir DIR          # DIR/cifar100: the parquet files of Hugging Face's uoft-cs/cifar100
    benches/evidence.py --pair resnet32x4 shufflenet_v1 --epochs 240

Teacher and students use the published recipe, with its milestones and the warm-up of DKD and NKD scaled to --epochs;
--limit trains on that many images, spread over the classes. The published figures are for the best of 240 epochs on all
50,000 images. A shorter schedule shows which method learns more from the same steps; it does not reproduce the paper's
tables.

Needs only Python's standard library. Jobs that exist already (same pair, budget, method and seed) are not trained
again, so an interrupted run resumes.
"""

import argparse
import hashlib
import json
import pathlib
import statistics
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime

METHODS = ("none", "kd", "sdd_kd", "dkd", "sdd_dkd", "nkd", "sdd_nkd")
EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples/published"
NORMALISATION = {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]}
FINAL = ("succeeded", "failed", "cancelled")


def call(server, method, path, body=None, headers=()):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server + path, data=data, method=method)
    request.add_header("content-type", "application/json")
    for name, value in headers:
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}")
    except urllib.error.URLError as error:
        sys.exit(f"{server}: {error.reason}; start it with: distillery serve --datasets-dir DIR")


def specification(options, method, seed, teacher):
    """One job."""
    student = options.pair[0] if method == "teacher" else options.pair[1]
    training = {"epochs": options.epochs, "batch_size": options.batch_size, "seed": seed,
                "eval_every_epochs": options.eval_every_epochs}
    dataset = {"name": options.dataset, **NORMALISATION}
    if method == "teacher":
        training["epochs"] = options.teacher_epochs or options.epochs
        limit = options.teacher_limit
    else:
        limit = options.limit
    if options.schedule != "multistep":
        training["schedule"] = {"type": options.schedule}
    if options.precision:
        training["precision"] = options.precision
    if limit:
        dataset["limit"] = limit
    distillation = {"method": "none" if method == "teacher" else method}
    if options.scales and method.startswith("sdd_"):
        distillation["scales"] = options.scales
    if method.endswith(("dkd", "nkd")):
        distillation["warmup_epochs"] = max(1, round(20 * training["epochs"] / 240))
    job = {
        "name": f"{options.pair[0]} to {options.pair[1]}: {method}, seed {seed}",
        "student": {"architecture": student},
        "dataset": dataset,
        "distillation": distillation,
        "training": training,
        "labels": {"evidence": f"{options.pair[0]}-{options.pair[1]}", "method": method},
    }
    if distillation["method"] != "none":
        job["teacher"] = {"job": teacher}
    return job


def post(options, method, seed, teacher=None):
    """Posts a job once, however often this program runs: its idempotency key is a hash of the job."""
    job = specification(options, method, seed, teacher)
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
    return call(options.server, "POST", "/v1/jobs", job, [("idempotency-key", f"evidence-{digest}")])


def wait(options, ids):
    """Waits until all jobs have ended, printing their progress."""
    shown = None
    while True:
        jobs = [call(options.server, "GET", f"/v1/jobs/{job}") for job in ids]
        running = [job for job in jobs if job["status"] not in FINAL]
        active = next((job for job in running if job.get("progress") and job["status"] == "running"), None)
        line = f"{len(jobs) - len(running)} of {len(jobs)} done"
        if active:
            progress = active["progress"]
            line += f"; {active['name']}: epoch {progress['epoch']} of {progress['epochs']}"
        if line != shown:
            print(f"  {time.strftime('%H:%M:%S')} {line}", flush=True)
            shown = line
        if not running:
            for job in jobs:
                if job["status"] != "succeeded":
                    sys.exit(f"{job['id']} {job['name']}: {job['status']} {job.get('error')}")
            return jobs
        time.sleep(options.poll)


def published(options, method):
    path = EXAMPLES / options.dataset / f"{options.pair[0]}-{options.pair[1]}-{method}.json"
    return json.loads(path.read_text())["labels"]["published_top1"] if path.exists() else "–"


def spread(values):
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--server", default="http://127.0.0.1:8080")
    parser.add_argument("--dataset", default="cifar100")
    parser.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"), default=("resnet32x4", "shufflenet_v1"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--scales", nargs="+", type=int, help="of the sdd_ methods; default: those published for the pair")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--limit", type=int, help="students train on the first LIMIT images")
    parser.add_argument("--teacher-epochs", type=int, help="default: --epochs")
    parser.add_argument("--teacher-limit", type=int)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--schedule", choices=("multistep", "cosine", "constant"), default="multistep")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--eval-every-epochs", type=int, default=1)
    parser.add_argument("--poll", type=float, default=5.0, help="seconds between polls")
    options = parser.parse_args()

    teacher = post(options, "teacher", 0)
    posted = [(method, post(options, method, seed, teacher["id"]))
              for seed in range(options.seeds) for method in options.methods]
    jobs = {job["id"]: job for job in wait(options, [teacher["id"], *(job["id"] for _, job in posted)])}

    print(f"\n{options.pair[0]} → {options.pair[1]}, {options.dataset}: {options.epochs} epochs of "
          f"{options.limit or 'all'} images, {options.seeds} seed(s); teacher "
          f"{jobs[teacher['id']]['result']['best_top1']:.2f} % top-1\n")
    print(f"  {'method':<10} {'best top-1':>16} {'last top-1':>16} {'published':>10}  minutes per run")
    for method in options.methods:
        results = [jobs[job["id"]] for of, job in posted if of == method]
        minutes = [duration(job) / 60 for job in results]
        print(f"  {method:<10} {spread([job['result']['best_top1'] for job in results]):>16} "
              f"{spread([job['result']['last_top1'] for job in results]):>16} {published(options, method):>10}  "
              f"{statistics.mean(minutes):.1f}")


def duration(job):
    start, end = (datetime.fromisoformat(job[name].replace("Z", "+00:00")) for name in ("started_at", "finished_at"))
    return (end - start).total_seconds()


if __name__ == "__main__":
    main()
