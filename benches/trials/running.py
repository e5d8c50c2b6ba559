"""Trains an experiment's runs on a server, and records each as soon as it has ended."""

import hashlib
import statistics
import sys
import time
from datetime import datetime

from . import machine
from .experiments import Method, identity
from .records import write
from .server import FINAL


class Runner:
    """Makes the runs of one experiment that `records` lacks, and adds them to it."""

    def __init__(self, server, experiment, records, methods, seeds, *, teachers, poll):
        self.server = server
        self.experiment = experiment
        self.records = records
        self.teachers = teachers
        self.poll = poll
        self.teacher_document = experiment.teacher_document()
        self.teacher_identity = identity(self.teacher_document)
        # Seed by seed, so that runs which are ended early are whole seeds of all methods.
        self.wanted = [(method, seed, experiment.document(method, seed)) for seed in range(seeds) for method in methods]
        self.shown = None

    def run(self):
        """Returns whether all wanted runs are recorded."""
        missing = [run for run in self.wanted if not self.records.find(identity(run[2], self.teacher_identity))]
        print(f"{self.records.name}: {len(self.wanted) - len(missing)} of {len(self.wanted)} runs are recorded in "
              f"{self.records.path}", flush=True)
        if not missing:
            return True
        needs_teacher = any(document["distillation"]["method"] != "none" for _, _, document in missing)
        teacher = self.teacher() if needs_teacher else None
        posted = [(method, seed, document, self.post(method, document, teacher)) for method, seed, document in missing]
        return self.collect(posted)

    def post(self, method, document, teacher=None):
        """Returns the job's id."""
        job = {**document, "labels": {"evidence": self.records.name, "method": method}}
        if document["distillation"]["method"] != "none":
            job["teacher"] = {"architecture": self.experiment.pair[0], "checkpoint": teacher}
        return self.server.post(job)

    def teacher(self):
        """The id of the teacher's checkpoint on the server. Its file stays on this machine, so that on another server,
        too, further seeds have the same teacher."""
        name = f"teacher-{self.records.name}-{self.teacher_identity[:16]}.safetensors"
        kept = self.teachers / name
        known = self.records.find(self.teacher_identity)
        is_kept = known and kept.exists() and sha256(kept.read_bytes()) == known["student_sha256"]
        if not is_kept:
            if known:
                print(f"  the recorded teacher is not at {kept}: it comes from the server, which trains it again if "
                      "it does not have it", flush=True)
            job = self.post("teacher", self.teacher_document)
            if not self.collect([("teacher", 0, self.teacher_document, job)]):
                sys.exit(1)
            known = self.records.find(self.teacher_identity)
            content = self.server.bytes("GET", f"/v1/jobs/{job}/student")
            if sha256(content) != known["student_sha256"]:
                sys.exit(f"the teacher of {job} has other weights than that of the recorded runs (SHA-256 "
                         f"{sha256(content)}, not {known['student_sha256']}): they depend on processor, threads and "
                         f"versions. Put the old teacher's file at {kept}, or record all runs under another --name.")
            self.teachers.mkdir(parents=True, exist_ok=True)
            write(kept, content)
        return self.server.upload(kept.read_bytes(), name, self.experiment.pair[0])

    def collect(self, posted):
        """Waits until all of these jobs have ended, and records each one. Returns whether all have succeeded."""
        waiting, failed = list(posted), []
        while waiting:
            jobs = [(run, self.server.job(run[3])) for run in waiting]
            for (method, seed, document, _), job in jobs:
                if job["status"] == "succeeded":
                    self.record(method, seed, document, job)
                elif job["status"] in FINAL:
                    failed.append(job)
            jobs = [(run, job) for run, job in jobs if job["status"] not in FINAL]
            waiting = [run for run, _ in jobs]
            if waiting:
                self.show(len(posted) - len(waiting), len(posted), jobs)
                time.sleep(self.poll)
        for job in failed:
            print(f"{job['id']} {job['name']}: {job['status']} {job.get('error') or ''}\n"
                  "The same command tries it again.", file=sys.stderr)
        return not failed

    def record(self, method, seed, document, job):
        key = identity(document, self.teacher_identity)
        if self.records.find(key):
            return
        record = {"document": key, **describe(self.server, self.experiment, method, seed, job)}
        self.records.add(record)
        print(f"  {time.strftime('%d %b %H:%M:%S')} {job['name']}: last top-1 {record['last_top1']:.2f} %, "
              f"{duration_text(record['seconds'])}", flush=True)

    def show(self, done, of, jobs):
        """Prints a line when an epoch has ended."""
        line = f"{done} of {of} done"
        active = next((job for _, job in jobs if job.get("progress") and job["status"] == "running"), None)
        if active:
            progress = active["progress"]
            line += f"; {active['name']}: epoch {progress['epoch']} of {progress['epochs']}"
        if line != self.shown:
            self.shown = line
            left = remaining(self.records.students, jobs)
            estimate = "" if left is None else f"; about {duration_text(left)} left for these, one at a time"
            print(f"  {time.strftime('%d %b %H:%M:%S')} {line}{estimate}", flush=True)


def remaining(records, jobs):
    """Seconds until these jobs have ended, from the runs that are recorded: a method's own, else those of all. The job
    that runs says itself what it still needs, and stands for all others as long as nothing is recorded."""
    of_method, everything = {}, [record["seconds"] for record in records]
    for record in records:
        of_method.setdefault(record["method"], []).append(record["seconds"])
    progress = [job.get("progress") if job["status"] == "running" else None for _, job in jobs]
    if not everything:
        everything = [of["eta_seconds"] / (1 - of["fraction"]) for of in progress if of and of["fraction"] < 1]
    if not everything:
        return None
    return sum(
        of["eta_seconds"] if of else statistics.mean(of_method.get(method, everything))
        for ((method, *_), _), of in zip(jobs, progress)
    )


def describe(server, experiment, method, seed, job):
    """What is recorded of a job that has succeeded."""
    spec, result = job["spec"], job["result"]
    points = server.points(job["id"], ["eval/top1", "images_per_second"])
    manifest = server.artifact(job["id"], "manifest.json")
    attempts = server.json("GET", f"/v1/jobs/{job['id']}/attempts")["data"]
    last = manifest["attempts"][-1]
    record = {
        "method": method,
        "pair": list(experiment.pair),
        "seed": seed,
        "epochs": spec["training"]["epochs"],
        "images": manifest["data"]["train_images"],
        "eval_images": manifest["data"]["eval_images"],
        "scales": spec["distillation"].get("scales"),
        "best_top1": result["best_top1"],
        "best_epoch": result["best_epoch"],
        "last_top1": result["last_top1"],
        "curve": [[round(epoch, 4), round(value, 4)] for epoch, value in points["eval/top1"]],
        "teacher_top1": result.get("teacher_top1"),
        "teacher_sha256": (manifest.get("teacher") or {}).get("sha256"),
        "student_sha256": result["student"]["sha256"],
        "complementary": None,
        "seconds": round(sum(map(seconds, attempts)), 1),
        "images_per_second": median(points.get("images_per_second", [])),
        "attempts": len(attempts),
        "finished_at": job["finished_at"],
        "machine": {
            **(machine.describe() if server.is_local else {"cpu": None, "cores": None, "flags": None}),
            "device": last["device"],
            "card": last.get("card"),
            "precision": last["precision"],
            "threads": last["threads"],
        },
        "version": manifest["versions"],
        "job": job["id"],
        "distillation": spec["distillation"],
        "training": spec["training"],
    }
    if method != "teacher" and Method.parse(method).has_regions:
        record["complementary"] = complementary(server, job["id"], spec["distillation"]["scales"])
    return record


def complementary(server, job_id, scales):
    """The share of regions that are complementary: in training the mean over the job's points, and on the evaluation
    split that of the job's region report, each of all scales and of each scale."""
    names = {"all": "sdd/complementary_fraction"}
    names |= {str(scale): f"sdd/scale_{scale}/complementary_fraction" for scale in scales}
    points = server.points(job_id, names.values())
    train = {key: mean(points.get(name, [])) for key, name in names.items()}
    report = server.artifact(job_id, "regions.json")
    evaluated = None
    if report:
        evaluated = {"all": report["complementary_fraction"]}
        evaluated |= {str(of["scale"]): of["complementary_fraction"] for of in report["scales"]}
        evaluated = {key: round(value, 6) for key, value in evaluated.items()}
    return {"train": train, "eval": evaluated}


def mean(points):
    return round(statistics.mean(value for _, value in points), 6) if points else None


def median(points):
    return round(statistics.median(value for _, value in points), 1) if points else None


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def seconds(attempt):
    """How long an attempt took: a job that was paused, or whose machine was off, is not charged for it."""
    start, end = (datetime.fromisoformat(attempt[name].replace("Z", "+00:00")) for name in ("started_at", "ended_at"))
    return (end - start).total_seconds()


def duration_text(of):
    if of < 90:
        return f"{of:.0f} s"
    if of < 90 * 60:
        return f"{of / 60:.0f} min"
    return f"{of / 3600:.1f} h"
