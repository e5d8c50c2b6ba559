#!/usr/bin/env python3
"""Measures what `training.teacher_cache: views:<n>` costs in accuracy and saves in time: trains a pair with the teacher
evaluated in every epoch (`off`) and with n views of each image, with several seeds, and prints mean and deviation.

    benches/teacher_cache.py DATASET_DIR --trainer target/release/distillery-trainer

    benches/teacher_cache.py DATASET_DIR --trainer … --pair resnet32x4 resnet8x4 --speed 5

times a step instead, in the second epochs of that many pairs of short runs, one that evaluates the teacher and one with
cached logits; it prints the medians of the runs and of the ratios of pairs.

With the same seed, all settings share the initial weights and the order of images, so differences to `off` are taken by
seed. Runs that --output already contains are not repeated. Needs only Python's standard library.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

NORMALISATION = {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]}
# The scales of the tables in docs/teacher-cache.md, whatever the pair.
SDD_KD = {"method": "sdd_kd", "scales": [1, 2, 4]}


def train(options, name, spec):
    """Trains into a directory unless it exists; returns the last top-1 and the run's seconds."""
    output = options.output / name
    took = output / "seconds"
    if not took.exists():
        output.mkdir(parents=True, exist_ok=True)
        path = output / "spec.json"
        path.write_text(json.dumps(spec))
        command = [options.trainer, "train", path, "--output", output, "--device", "cpu", "--threads", options.threads]
        began = time.monotonic()
        run = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if run.returncode:
            sys.exit(f"{name}: {run.stderr}")
        took.write_text(str(time.monotonic() - began))
    manifest = json.loads((output / "manifest.json").read_text())
    return manifest["last"]["evaluation"]["top1"], float(took.read_text())


def training(options, epochs, seed):
    return {"epochs": epochs, "batch_size": 64, "schedule": {"type": "cosine"}, "augmentation": "crop_flip",
            "precision": "float32", "seed": seed, "eval_every_epochs": epochs, "checkpoint_every_epochs": epochs}


def milliseconds(options, name, spec):
    """The milliseconds per step in the second epoch of a run, with data loading."""
    train(options, name, spec)
    points = [json.loads(line) for line in (options.output / name / "metrics.ndjson").read_text().splitlines()]
    speeds = [point["value"] for point in points if point["name"] == "images_per_second" and point["epoch"] > 1]
    return 64000 / statistics.median(speeds)


def speed(options, data):
    """Prints the time per step with the teacher evaluated and with cached logits."""
    teacher, student = options.pair
    plain = {"epochs": 1, "batch_size": 64, "augmentation": "none", "precision": "float32",
             "optimizer": {"type": "sgd", "learning_rate": 0.001}}
    data = {**data, "limit": options.limit}
    train(options, "untrained", {"student": {"architecture": teacher}, "dataset": {**data, "limit": 640},
                                 "distillation": {"method": "none"}, "training": plain})
    checkpoint = str((options.output / "untrained/student-last.safetensors").absolute())
    print(f"{teacher} → {student}, batch 64, {options.threads} threads, ms per step: medians of {options.speed} pairs of runs")
    for precision in ("float32", "bfloat16"):
        times = {"off": [], "exact": []}
        for turn in range(options.speed):
            for cache, found in times.items():
                found.append(milliseconds(options, f"speed-{precision}-{cache}-{turn}", {
                    "teacher": {"architecture": teacher, "checkpoint": checkpoint}, "student": {"architecture": student},
                    "dataset": data, "distillation": SDD_KD, "training": {**plain, "precision": precision, "epochs": 2, "eval_every_epochs": 2,
                                                  "teacher_cache": cache}}))
        ratio = statistics.median(off / exact for off, exact in zip(*times.values()))
        print(f"  {precision:<9} off {statistics.median(times['off']):6.0f}  exact {statistics.median(times['exact']):6.0f}  "
              f"ratio {ratio:.2f}", flush=True)


def spread(values):
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("dataset", type=pathlib.Path, help="directory of a data set, such as CIFAR-100's")
    parser.add_argument("--trainer", type=pathlib.Path, default="target/release/distillery-trainer")
    parser.add_argument("--output", type=pathlib.Path, default="data/teacher-cache")
    parser.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"), default=("resnet20", "resnet8"))
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--teacher-epochs", type=int, default=8)
    parser.add_argument("--teacher-limit", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--settings", nargs="+", default=("off", "views:1", "views:4", "views:16"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", type=int, metavar="PAIRS", help="time steps instead")
    options = parser.parse_args()

    data = {"path": str(options.dataset.absolute()), "image_size": options.image_size, **NORMALISATION}
    if options.speed:
        return speed(options, data)
    teacher, student = options.pair
    top1, _ = train(options, "teacher", {
        "student": {"architecture": teacher}, "dataset": {**data, "limit": options.teacher_limit},
        "distillation": {"method": "none"}, "training": training(options, options.teacher_epochs, 0)})
    checkpoint = str((options.output / "teacher/student-last.safetensors").absolute())
    results = {setting: [] for setting in options.settings}
    for seed in range(options.seeds):
        for setting in options.settings:
            results[setting].append(train(options, f"{setting.replace(':', '-')}-{seed}", {
                "teacher": {"architecture": teacher, "checkpoint": checkpoint},
                "student": {"architecture": student}, "dataset": {**data, "limit": options.limit}, "distillation": SDD_KD,
                "training": {**training(options, options.epochs, seed), "teacher_cache": setting}}))
            print(f"  seed {seed}, {setting}: {results[setting][-1][0]:.2f} %, {results[setting][-1][1]:.0f} s", flush=True)

    print(f"\n{teacher} ({top1:.2f} %) → {student}, sdd_kd, {options.epochs} epochs of {options.limit} images, "
          f"{options.seeds} seed(s)\n\n  {'teacher_cache':<14} {'last top-1':>14} {'loss to off':>16}  seconds, median")
    for setting, runs in results.items():
        accuracies = [run[0] for run in runs]
        lost = [run[0] - accuracy for run, accuracy in zip(results[options.settings[0]], accuracies)]
        print(f"  {setting:<14} {spread(accuracies):>14} {spread(lost):>16}  {statistics.median(run[1] for run in runs):.0f}")


if __name__ == "__main__":
    main()
