#!/usr/bin/env python3
"""Measures the time from POST to the first training step on a data set that was used before, and its parts.

    benches/startup.py DATASET_DIR --teacher-checkpoint FILE --teacher resnet20 --student resnet8

Starts two real servers one after the other, one without a cache (DISTILLERY_CACHE_MIB=0) and one with, posts the same
one-epoch job to each several times, and prints the medians of all but each server's first job. The trainer's event
reports when the first step was done, counted from the start of its process. `queued` is the time from POST to the
claim, and `recorded` the time from POST until that event was in the database, up to 0.25 s later.

Needs only Python's standard library. Stop other work first: on two cores any other process affects the result.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime

from trials.server import FINAL

FIRST_STEP = re.compile(r"the first step was done after ([0-9.]+) s: (.*)")


def call(server, method, path, data=None, kind="application/json"):
    request = urllib.request.Request(server + path, data=data, method=method, headers={"content-type": kind})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def moment(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def job(server, spec):
    """Runs a job to its end; returns the seconds of each phase."""
    posted = call(server, "POST", "/v1/jobs", json.dumps(spec).encode())
    while (found := call(server, "GET", f"/v1/jobs/{posted['id']}"))["status"] not in FINAL:
        time.sleep(0.2)
    if found["status"] != "succeeded":
        sys.exit(f"{found['id']}: {found['status']} {found.get('error')}")
    events = call(server, "GET", f"/v1/jobs/{posted['id']}/events?limit=1000")["data"]
    said = next(event for event in events if FIRST_STEP.search(event["message"]))
    total, phases = FIRST_STEP.search(said["message"]).groups()
    times = {"queued": (moment(found["started_at"]) - moment(found["created_at"])).total_seconds()}
    for phase in phases.split(", "):
        name, seconds = phase.rsplit(" ", 1)
        times[name] = float(seconds)
    times["first step"] = float(total)
    times["recorded"] = (moment(said["time"]) - moment(found["created_at"])).total_seconds()
    return times


def measure(options, cache_mib):
    """Returns the phases of the first job, and their medians over the other jobs."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "DISTILLERY_CACHE_MIB": str(cache_mib)}
        os.chmod(directory, 0o755)
        command = [options.program, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{directory}/data",
                   "--datasets-dir", options.dataset.absolute().parent]
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            server = re.search(r"http://\S+", next(line for line in process.stdout if "listening on" in line)).group()
            query = f"/v1/checkpoints?architecture={options.teacher}"
            bytes_ = options.teacher_checkpoint.read_bytes()
            teacher = call(server, "PUT", query, bytes_, "application/octet-stream")["id"]
            spec = {"teacher": {"architecture": options.teacher, "checkpoint": teacher},
                    "student": {"architecture": options.student}, "dataset": {"name": options.dataset.name},
                    "distillation": {"method": "sdd_kd", "scales": [1, 2, 4]},
                    "training": {"epochs": 1, "augmentation": "none", "batch_size": 64}}
            jobs = [job(server, spec) for _ in range(options.jobs + 1)]
        finally:
            process.terminate()
            process.wait(90)
    return jobs[0], {phase: statistics.median(times[phase] for times in jobs[1:]) for phase in jobs[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("dataset", type=pathlib.Path)
    parser.add_argument("--teacher-checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--program", type=pathlib.Path, default="target/release/distillery")
    parser.add_argument("--jobs", type=int, default=3, help="jobs after the first")
    options = parser.parse_args()
    _, before = measure(options, 0)
    first, after = measure(options, 16384)
    print(f"{'seconds':<12} {'no cache':>16} {'first job':>10} {'used before':>12}   load {os.getloadavg()[0]:.1f}")
    for phase in before:
        print(f"{phase:<12} {before[phase]:>16.2f} {first[phase]:>10.2f} {after[phase]:>12.2f}")


if __name__ == "__main__":
    main()
