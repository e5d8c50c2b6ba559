#!/usr/bin/env python3
"""Measures what `training.devices` gains on this machine: trains a pair alternately on one device and on several of the
same kind, with the same total number of threads, and prints the images per second of the second epochs and their ratio.

    benches/ranks.py DATASET_DIR --trainer target/release/distillery-trainer --devices 2 --threads 2

Needs only Python's standard library.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile


def train(options, output, spec):
    """Trains into a directory; returns the images per second after the first epoch."""
    output.mkdir()
    path = output / "spec.json"
    path.write_text(json.dumps(spec))
    command = [options.trainer, "train", path, "--output", output, "--device", options.device, "--threads", options.threads]
    run = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    points = [json.loads(line) for line in (output / "metrics.ndjson").read_text().splitlines()]
    return statistics.median(p["value"] for p in points if p["name"] == "images_per_second" and p["epoch"] > 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--trainer", type=pathlib.Path, default="target/release/distillery-trainer")
    parser.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"), default=["resnet32x4", "resnet8x4"])
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="total over all devices")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--limit", type=int, default=1280)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    data = {"path": str(options.data.absolute()), "image_size": options.image_size, "limit": options.limit}
    teacher, student = options.pair
    training = {"batch_size": options.batch_size, "augmentation": "crop_flip", "optimizer": {"type": "sgd", "learning_rate": 0.001}}
    speeds = {1: [], options.devices: []}
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        train_once = {"student": {"architecture": teacher}, "dataset": {**data, "limit": 640},
                      "distillation": {"method": "none"}, "training": {**training, "epochs": 2}}
        train(options, root / "teacher", train_once)
        checkpoint = str(root / "teacher/student-last.safetensors")
        for turn in range(options.turns):
            for devices, found in speeds.items():
                spec = {"teacher": {"architecture": teacher, "checkpoint": checkpoint}, "student": {"architecture": student},
                        "dataset": data, "distillation": {"method": "sdd_kd", "scales": [1, 2, 4]},
                        "training": {**training, "epochs": 2, "devices": devices}}
                found.append(train(options, root / f"{devices}-{turn}", spec))
    one, several = (statistics.median(found) for found in speeds.values())
    print(f"{teacher} → {student}, batch {options.batch_size}, {options.threads} threads in total, {options.device}: "
          f"{one:.0f} images/s on one, {several:.0f} on {options.devices}: {several / one:.2f} times")


if __name__ == "__main__":
    main()
