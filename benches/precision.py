#!/usr/bin/env python3
"""Tests whether bfloat16 keeps the accuracy of float32: trains a pair in both, with several seeds, and prints mean and
standard deviation of accuracy and loss.

    cargo build --release
    benches/precision.py --data DIR --pair resnet20 resnet8 --epochs 10 --limit 10000 --teacher-epochs 4

DIR is any data set that distillery reads. The teacher is trained first, in float32. Runs that --directory already
contains are not repeated, so an interrupted run resumes. Needs only Python's standard library.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def train(options, name, spec):
    """Trains unless the run exists already; returns its manifest and median speed."""
    output = options.directory / name
    if not (output / "manifest.json").exists():
        output.mkdir(parents=True, exist_ok=True)
        (output / "job.json").write_text(json.dumps(spec))
        command = [options.trainer, "train", output / "job.json", "--output", output, "--device", options.device]
        if options.threads:
            command += ["--threads", str(options.threads)]
        print(f"  training {name}", file=sys.stderr, flush=True)
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"{name} failed")
    points = map(json.loads, (output / "metrics.ndjson").read_text().splitlines())
    speed = [point["value"] for point in points if point["name"] == "images_per_second"]
    return json.loads((output / "manifest.json").read_text()), statistics.median(speed)


def specification(options, seed, precision, teacher):
    training = {"epochs": options.epochs, "seed": seed, "precision": precision, "eval_every_epochs": options.epochs,
                "schedule": {"type": "cosine"}}
    dataset = {"path": str(options.data.resolve())} | ({"image_size": options.image_size} if options.image_size else {})
    if teacher:
        # Those of the table in docs/performance.md, whatever the pair.
        scales = {"scales": [1, 2, 4]} if options.method.startswith("sdd_") else {}
        dataset |= {"limit": options.limit} if options.limit else {}
        return {"student": {"architecture": options.pair[1]}, "dataset": dataset, "training": training,
                "teacher": {"architecture": options.pair[0], "checkpoint": str(teacher)},
                "distillation": {"method": options.method, **scales}}
    training |= {"epochs": options.teacher_epochs, "eval_every_epochs": options.teacher_epochs}
    return {"student": {"architecture": options.pair[0]}, "dataset": dataset, "training": training,
            "distillation": {"method": "none"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"), default=("resnet20", "resnet8"))
    parser.add_argument("--method", default="sdd_kd")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="students train on the first LIMIT images")
    parser.add_argument("--image-size", type=int, help="the side that images are resized to")
    parser.add_argument("--teacher-epochs", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--directory", type=pathlib.Path, default=ROOT / "target/precision")
    parser.add_argument("--trainer", type=pathlib.Path, default=ROOT / "target/release/distillery-trainer")
    options = parser.parse_args()
    options.directory = (options.directory / f"{options.data.name}-{'-'.join(options.pair)}").resolve()

    manifest, _ = train(options, "teacher", specification(options, 0, "float32", None))
    teacher = options.directory / "teacher/student-last.safetensors"
    print(f"{' → '.join(options.pair)}, {options.data.name}, {options.method}: {options.epochs} epochs of "
          f"{options.limit or 'all'} images; teacher {manifest['last']['evaluation']['top1']:.2f} %\n")
    runs = {"float32": [], "bfloat16": []}
    for seed in range(options.seeds):
        for precision, done in runs.items():
            spec = specification(options, seed, precision, teacher)
            done.append(train(options, f"{precision}-{seed}", spec))
    print(f"  {'precision':<10} {'last top-1, mean ± deviation':>30} {'loss':>15}  by seed")
    for precision, done in runs.items():
        last = [manifest["last"]["evaluation"] for manifest, _ in done]
        spread = [f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"
                  for values in ([each[key] for each in last] for key in ("top1", "loss"))]
        print(f"  {precision:<10} {spread[0]:>30} {spread[1]:>15}  " + ", ".join(f"{each['top1']:.2f}" for each in last))
        if any(manifest["attempts"][-1]["precision"] != precision for manifest, _ in done):
            sys.exit(f"a run did not use {precision}")


if __name__ == "__main__":
    main()
