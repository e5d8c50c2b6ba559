#!/usr/bin/env python3
"""Checks and measures everything about training on a GPU with one command.

    make bench-gpu DATA=DIR            # DIR: CIFAR-100's parquet files
    benches/gpu.py --data DIR --full   # also trains the published 240 epochs

In this order: the tests that need a GPU; milliseconds per step of each pair, issued one by one, as CUDA graphs, and
with cuDNN timing its algorithms, taking turns with plain PyTorch as published and as one would write it today
(torch.compile, bfloat16 autocast, channels last), and the share of the GPU's limit; seconds per epoch of whole jobs on
both sides, with data loading and evaluations, extrapolated to 240 epochs; the accuracy of both sides after some epochs,
by seed and precision. Results are also written to a file of JSON lines. The program exits with 1 if a test fails or was
not run, a step could not be recorded, or a goal is missed: epochs 8 times as fast as PyTorch's, 240 epochs within 10
minutes, and top-1 within the deviation.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import compare

PAIRS = [("resnet32x4", "shufflenet_v1"), ("resnet32x4", "resnet8x4")]
WAYS = [("one by one", []), ("graphs", ["--graphs"]), ("graphs, timed algorithms", ["--graphs", "--cudnn-benchmark"])]
EPOCHS, MINUTES, TIMES = 240, 10.0, 8.0
TESTS = ["gpu::", "steps::", "optim::", "losses::", "rows::"]


class Findings:
    """The measurements, and the goals that were missed."""

    def __init__(self, path):
        self.file, self.faults = path.open("a"), []

    def note(self, **values):
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()

    def expect(self, is_so, what):
        self.note(goal=what, met=bool(is_so))
        if not is_so:
            self.faults.append(what)
            print(f"MISSED: {what}")


def describe(findings):
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.strip().splitlines()
    except OSError as error:
        # Some containers have the driver's libraries without its programs.
        gpu = [f"a GPU that nvidia-smi would describe: {error}"]
    except subprocess.CalledProcessError as error:
        sys.exit(f"no NVIDIA GPU: {error}")
    print("on", "; ".join(gpu), flush=True)
    findings.note(gpu=gpu, cores=len(os.sched_getaffinity(0)), time=datetime.datetime.now(datetime.timezone.utc).isoformat())


def test(findings):
    command = ["cargo", "test", "--release", "--locked", "-p", "distillery-trainer", "--test", "it", "--", "--nocapture", *TESTS]
    run = subprocess.run(command, cwd=compare.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    skipped = [line for line in run.stdout.splitlines() if "not run:" in line]
    if run.returncode or skipped:
        print(run.stdout[-4000:])
    findings.expect(run.returncode == 0, "the tests pass")
    findings.expect(not skipped, "the tests that need a GPU are run")


def measure(sides, rounds):
    """Measures the sides in turn; returns the median milliseconds per step of each."""
    for _ in range(rounds):
        for side in sides:
            side.measure()
    return [side.end() for side in sides]


def modern(options, one):
    """PyTorch as one would write it today; none, with the reason, where it cannot be compiled."""
    if "compiled" in options.skip:
        return []
    try:
        return [compare.Side([*compare.python(options), *one, "--modern", "--on-request"])]
    except SystemExit:
        print("torch.compile does not work here (its messages are above): not measured", flush=True)
        return []


def steps(options, findings, program):
    print(f"\nmilliseconds per step, batch {options.batch}, with data loading except for PyTorch; median of {options.rounds} turns "
          f"of {options.steps} steps; ratios are to PyTorch as published, and to it compiled\n")
    print("| pair | | PyTorch | compiled | " + " | ".join(f"{name} | ratios" for name, _ in WAYS) + " | share of the limit |")
    print("| --- " * (5 + 2 * len(WAYS)) + "|", flush=True)
    for pair in options.pairs:
        one = ["--pair", *pair, "--batch", str(options.batch), "--steps", str(options.steps), "--device", options.device]
        for precision in options.precision:
            sides = [compare.Side([*compare.python(options), *one, "--on-request"])]
            ours = [program, *one, "--precision", precision]
            sides += [compare.Side([*ours, *way, "--on-request"]) for _, way in WAYS]
            sides += modern(options, one)
            theirs, *times = measure(sides, options.rounds)
            times, compiled = times[: len(WAYS)], (times[len(WAYS) :] or [float("nan")])[0]
            report = subprocess.run([*ours, "--graphs", "--json"], stdout=subprocess.PIPE, text=True, check=True).stdout
            report = json.loads(report)
            share = report["least_ms"] / min(times)
            cells = " | ".join(f"{time:.2f} | {theirs / time:.1f}, {compiled / time:.1f}" for time in times)
            print(f"| {pair[0]} → {pair[1]} | {precision} | {theirs:.2f} | {compiled:.2f} | {cells} | {100 * share:.0f} % |",
                  flush=True)
            ways = {name: time for (name, _), time in zip(WAYS, times)}
            findings.note(pair=pair, precision=precision, pytorch_ms=theirs, compiled_ms=None if compiled != compiled else compiled,
                          ms=ways, share=share, phases=report["phases_ms"], peaks=report["peaks"])


def train(options, findings, directory, name, spec):
    """Runs a job on the GPU, in which every step must be recorded."""
    job = compare.Job(compare.train_command(options, directory, name, spec))
    findings.expect(not any("CUDA graph" in warning for warning in job.warnings), f"{name}: steps are recorded")
    return job


def plain(options, pair, teacher, epochs, seed):
    """Runs the same job in plain PyTorch."""
    command = [*compare.python(options), "--pair", *pair, "--data", options.data, "--device", options.device, "--batch",
               options.batch, "--epochs", epochs, "--workers", options.workers, "--seed", seed, "--teacher-weights", teacher]
    return compare.Job(command + (["--limit", options.limit] if options.limit else []))


def teacher_of(options, findings, directory):
    """The path of the teacher's weights: those given, or newly trained ones."""
    if options.teacher:
        return options.teacher.resolve()
    spec = specification(options, options.pairs[0][0], options.teacher_epochs)
    job = train(options, findings, directory, "teacher", spec)
    print(f"\nteacher: {options.pairs[0][0]} after {options.teacher_epochs} epochs: {job}", flush=True)
    return directory / "teacher/student-last.safetensors"


def specification(options, student, epochs, **training):
    return {"student": {"architecture": student}, "dataset": {"path": str(options.data.resolve())} | limited(options),
            "distillation": {"method": "none"},
            "training": {"epochs": epochs, "batch_size": options.batch, "augmentation": "crop_flip", **training}}


def limited(options):
    return {"limit": options.limit} if options.limit else {}


def distilled(options, pair, teacher, epochs, **training):
    spec = specification(options, pair[1], epochs, **training)
    # The normalisation of the PyTorch side.
    spec["dataset"] |= {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]}
    return spec | {"teacher": {"architecture": pair[0], "checkpoint": str(teacher)}, "distillation": {"method": "sdd_kd", "scales": [1, 2, 4]}}


def jobs(options, findings, directory, teacher):
    print(f"\nseconds per epoch of a whole job of {options.job_epochs} epochs, with data loading and evaluation, and minutes for "
          f"{EPOCHS} epochs at that rate, with the start\n")
    print("| pair | | epoch | ratio | minutes |\n| --- | --- | --- | --- | --- |", flush=True)
    for pair in options.pairs:
        runs = {"PyTorch": plain(options, pair, teacher, options.job_epochs, 0)}
        # `auto` means TF32 unless it chooses bfloat16.
        for precision in ("auto", "float32", "bfloat16"):
            spec = distilled(options, pair, teacher, options.job_epochs, precision=precision)
            runs[precision] = train(options, findings, directory, f"{pair[1]}-{precision}", spec)
        for name, job in runs.items():
            ratio = runs["PyTorch"].epoch / job.epoch
            minutes = (job.passed + (EPOCHS - options.job_epochs) * job.epoch) / 60
            print(f"| {pair[0]} → {pair[1]} | {name} | {job.epoch:.2f} | {ratio:.1f} | {minutes:.1f} |", flush=True)
            findings.note(pair=pair, side=name, epoch_seconds=job.epoch, ratio=ratio, minutes=minutes)
            if name == "bfloat16":
                findings.expect(ratio >= TIMES, f"{pair[1]}: epochs {TIMES:.0f} times as fast ({ratio:.1f})")
                findings.expect(minutes <= MINUTES, f"{pair[1]}: {EPOCHS} epochs within {MINUTES:.0f} minutes ({minutes:.1f})")


def accuracy(options, findings, directory, teacher, epochs, seeds):
    print(f"\ntop-1 after {epochs} epochs, mean ± deviation of {seeds} seeds\n\n| pair | | top-1 | by seed |\n| --- | --- | --- | --- |")
    for pair in options.pairs:
        found = {"PyTorch": [plain(options, pair, teacher, epochs, seed).top1 for seed in range(seeds)]}
        for precision in ("float32", "bfloat16"):
            found[precision] = []
            for seed in range(seeds):
                spec = distilled(options, pair, teacher, epochs, precision=precision, seed=seed)
                job = train(options, findings, directory, f"{pair[1]}-{precision}-{epochs}-{seed}", spec)
                findings.note(pair=pair, precision=precision, epochs=epochs, seed=seed, minutes=job.passed / 60, top1=job.top1)
                found[precision].append(job.top1)
        for name, values in found.items():
            deviation = statistics.stdev(values) if seeds > 1 else 0.0
            print(f"| {pair[0]} → {pair[1]} | {name} | {statistics.mean(values):.2f} ± {deviation:.2f} | "
                  f"{', '.join(f'{value:.2f}' for value in values)} |", flush=True)
            findings.note(pair=pair, side=name, epochs=epochs, top1=values)
        # Twice the standard error of the mean, but at least a quarter of a point.
        theirs = found["PyTorch"]
        bound = max(0.25, 2 * (statistics.stdev(theirs) if seeds > 1 else 0.5) / seeds**0.5)
        for precision in ("float32", "bfloat16"):
            lost = statistics.mean(theirs) - statistics.mean(found[precision])
            findings.expect(lost <= bound, f"{pair[1]} in {precision}: top-1 within {bound:.2f} of PyTorch's ({lost:+.2f} lost)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=pathlib.Path, help="CIFAR-100's parquet files; without them, only tests and steps")
    parser.add_argument("--pair", nargs=2, action="append", metavar=("TEACHER", "STUDENT"), dest="pairs")
    parser.add_argument("--precision", action="append", choices=["float32", "tf32", "bfloat16"])
    parser.add_argument("--teacher", type=pathlib.Path, help="the teacher's weights; trained here if absent")
    parser.add_argument("--teacher-epochs", type=int, default=30)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job-epochs", type=int, default=5)
    parser.add_argument("--accuracy-epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="training images; default: all")
    parser.add_argument("--full", action="store_true", help=f"also train {EPOCHS} epochs with one seed on both sides")
    parser.add_argument("--workers", type=int, default=min(8, len(os.sched_getaffinity(0))), help="PyTorch's loader processes")
    parser.add_argument("--skip", action="append", default=[], choices=["tests", "steps", "compiled", "jobs", "accuracy"])
    parser.add_argument("--findings", type=pathlib.Path, default=pathlib.Path("gpu-findings.ndjson"))
    parser.add_argument("--python", default=str(compare.ROOT / ".deps/pytorch_bench/run"))
    parser.add_argument("--trainer", default=str(compare.ROOT / "target/release/distillery-trainer"))
    parser.add_argument("--program", help="the trainer's bench `step`, if already built")
    options = parser.parse_args()
    options.pairs, options.precision = options.pairs or PAIRS, options.precision or ["float32", "tf32", "bfloat16"]
    options.threads, options.profile = 2, None
    if options.data and len({teacher for teacher, _ in options.pairs}) > 1:
        sys.exit("with --data, all pairs must have the same teacher")
    findings = Findings(options.findings)
    if options.device != "cpu":
        describe(findings)
    if "tests" not in options.skip:
        test(findings)
    if "steps" not in options.skip:
        steps(options, findings, compare.bench_program(options))
    if options.data:
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            teacher = teacher_of(options, findings, directory)
            if "jobs" not in options.skip:
                jobs(options, findings, directory, teacher)
            if "accuracy" not in options.skip:
                accuracy(options, findings, directory, teacher, options.accuracy_epochs, options.seeds)
            if options.full:
                accuracy(options, findings, directory, teacher, EPOCHS, 1)
    print("\n" + ("all goals met" if not findings.faults else "missed:\n  " + "\n  ".join(findings.faults)))
    sys.exit(bool(findings.faults))


if __name__ == "__main__":
    main()
