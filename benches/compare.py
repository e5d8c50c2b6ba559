#!/usr/bin/env python3
"""Compares training with plain PyTorch (benches/pytorch/step.py: the published recipe in float32) on this machine.

    make bench                                        # steps, without data loading
    make bench DATA=DIR                               # also whole short jobs on CIFAR-100's parquet files
    benches/compare.py --processor-time --threads 1   # on a machine that is busy with other work

Both sides of a pair stay loaded and take turns measuring a few steps, so that other load on the machine affects both.
The result is the median of all steps. --processor-time counts the time that the process's threads ran.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAIRS = [("resnet32x4", "resnet8x4"), ("resnet56", "resnet20"), ("resnet32x4", "shufflenet_v1"), ("vgg13", "vgg8")]
# Each side keeps its own wait policy: PyTorch's threads spin for a while, ours sleep sooner
# (device::idle_threads_sleep).
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}


class Side:
    """A program that measures some steps for each line on its standard input."""

    def __init__(self, command):
        self.times = []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{command[0]} did not start")

    def measure(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.times += json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        return statistics.median(self.times)


def bench_program(options, name="step"):
    """The path of one of the trainer's benches, built by cargo."""
    if options.program:
        return options.program
    command = ["cargo", "bench", "--locked", "-p", "distillery-trainer", "--bench", name, "--no-run", "--message-format=json"]
    if options.profile:
        command += ["--profile", options.profile]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in built.splitlines()]
    return next(message["executable"] for message in reversed(messages)
                if message.get("executable") and message["target"]["name"] == name)


def python(options):
    return [options.python, str(ROOT / "benches/pytorch/step.py")]


def common(options):
    arguments = ["--batch", str(options.batch), "--threads", str(options.threads)]
    return arguments + (["--processor-time"] if options.processor_time else [])


def compare_steps(options, program):
    kind = "processor time per thread" if options.processor_time else "wall time"
    print(f"milliseconds per step, batch {options.batch}, {options.threads} threads, {kind}; "
          f"median of {options.rounds * options.steps} steps, {options.steps} per turn\n")
    print("| pair | PyTorch | here, float32 | ratio | here, bfloat16 | ratio | share of the limit |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for pair in options.pairs:
        one = ["--pair", *pair, "--steps", str(options.steps), *common(options)]
        request = [*one, "--on-request"]
        sides = [Side([*python(options), *request])]
        sides += [Side([program, *request, "--precision", precision]) for precision in ("float32", "bfloat16")]
        for _ in range(options.rounds):
            for side in sides:
                side.measure()
        theirs, single, brain = (side.end() for side in sides)
        report = subprocess.run([program, *one, "--json", "--precision", "bfloat16"], stdout=subprocess.PIPE, text=True,
                                check=True, env=ENVIRONMENT).stdout
        share = json.loads(report)["least_ms"] / brain
        print(f"| {pair[0]} → {pair[1]} | {theirs:.0f} | {single:.0f} | {theirs / single:.2f} | {brain:.0f} "
              f"| {theirs / brain:.2f} | {100 * share:.0f} % |", flush=True)


def compare_jobs(options):
    """Compares whole runs of a pair, from program start to exit, taking turns, with the same teacher."""
    teacher, student = options.job_pair
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        checkpoint = (options.teacher or train_teacher(options, directory)).resolve()
        spec = {"student": {"architecture": student}, "distillation": {"method": "sdd_kd", "scales": [1, 2, 4]},
                "teacher": {"architecture": teacher, "checkpoint": str(checkpoint)},
                "dataset": {"path": str(options.data.resolve()), "limit": options.limit},
                "training": {"epochs": options.epochs, "batch_size": options.batch}}
        plain = [*python(options), "--pair", teacher, student, "--data", str(options.data), "--limit", str(options.limit),
                 "--epochs", str(options.epochs), "--batch", str(options.batch), "--threads", str(options.threads),
                 "--teacher-weights", str(checkpoint)]
        jobs = {"PyTorch": [], "float32": [], "bfloat16": []}
        print(f"\nload before: {os.getloadavg()[0]:.1f}", flush=True)
        for turn in range(options.jobs):
            for name, of in jobs.items():
                if name == "PyTorch":
                    of.append(Job(plain))
                else:
                    spec["training"] |= {"precision": name, "seed": turn}
                    of.append(Job(train_command(options, directory, f"{name}-{turn}", spec)))
                print(f"{name}: {of[-1]}", file=sys.stderr, flush=True)
    print(f"\nseconds per whole job, {teacher} → {student}, {options.epochs} epochs of {options.limit} images, batch {options.batch}, "
          f"{options.threads} threads, with an evaluation of the teacher first and of the test split after each epoch; "
          f"median of {options.jobs}\n")
    print("| | job | ratio | epoch | ratio | processor time | ratio | top-1 |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    median = lambda name, key: statistics.median(getattr(job, key) for job in jobs[name])
    for name, of in jobs.items():
        columns = []
        for key in ("passed", "epoch", "processors"):
            columns.append(f"{median(name, key):.1f} | {median('PyTorch', key) / median(name, key):.2f}")
        print(f"| {name} | {' | '.join(columns)} | {', '.join(f'{job.top1:.2f}' for job in of)} |")


class Job:
    """A finished run: its wall time, the time per epoch with its evaluation, and its processor time, in seconds."""

    def __init__(self, command):
        before, begun = os.times(), time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        marks, top1s, self.warnings = [], [], []
        for line in process.stdout:
            event = json.loads(line)
            found = [point["value"] for point in event.get("points", []) if point["name"] == "eval/top1"]
            found += [event["top1"]] if "epoch" in event and "top1" in event else []
            if found or event.get("type") == "teacher" or "teacher" in event:
                marks.append(time.perf_counter())
                top1s += found
            if event.get("level") == "warning":
                self.warnings.append(event["message"])
            if event.get("type") == "failed":
                sys.exit(f"{command[0]} failed: {line}")
        if process.wait() or not top1s:
            sys.exit(f"{command[0]} ended with {process.returncode} after {len(top1s)} epochs")
        after = os.times()
        self.passed = time.perf_counter() - begun
        self.processors = after.children_user - before.children_user + after.children_system - before.children_system
        # Count from the teacher's evaluation, or from the start if there is none.
        marks = marks if len(marks) > len(top1s) else [begun, *marks]
        self.epoch = statistics.median(later - earlier for earlier, later in zip(marks, marks[1:]))
        self.top1 = top1s[-1]

    def __str__(self):
        return f"{self.passed:.1f} s, {self.epoch:.1f} s per epoch, top-1 {self.top1:.2f} %"


def train_teacher(options, directory):
    """Trains a teacher for one epoch that both sides can load; its accuracy does not affect the timing."""
    spec = {"student": {"architecture": options.job_pair[0]}, "distillation": {"method": "none"},
            "dataset": {"path": str(options.data.resolve()), "limit": options.limit},
            "training": {"epochs": 1, "batch_size": options.batch}}
    print(f"teacher: {Job(train_command(options, directory, 'teacher', spec))}", file=sys.stderr, flush=True)
    return directory / "teacher/student.safetensors"


def train_command(options, directory, name, spec):
    (directory / f"{name}.json").write_text(json.dumps(spec))
    return [options.trainer, "train", directory / f"{name}.json", "--output", directory / name, "--events", "--device",
            options.device, "--threads", str(options.threads)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pair", nargs=2, action="append", metavar=("TEACHER", "STUDENT"), dest="pairs")
    parser.add_argument("--batch", type=int, default=64)
    parser.set_defaults(device="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=3, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--data", type=pathlib.Path, help="CIFAR-100's parquet files: compare whole jobs too")
    parser.add_argument("--job-pair", nargs=2, default=("resnet56", "resnet20"), metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--teacher", type=pathlib.Path, help="the teacher's weights as safetensors; trained for one epoch if absent")
    parser.add_argument("--limit", type=int, default=5120, help="training images of a whole job")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=3, help="runs of each job")
    parser.add_argument("--jobs-only", action="store_true", help="skip the comparison of steps")
    parser.add_argument("--python", default=str(ROOT / ".deps/pytorch_bench/run"))
    parser.add_argument("--trainer", default=str(ROOT / "target/release/distillery-trainer"))
    parser.add_argument("--program", help="the trainer's bench `step`, if already built")
    parser.add_argument("--profile", help="cargo profile; default: bench")
    options = parser.parse_args()
    options.pairs = options.pairs or PAIRS
    if options.jobs_only and not options.data:
        parser.error("--jobs-only needs --data")
    if not options.jobs_only:
        compare_steps(options, bench_program(options))
    if options.data:
        compare_jobs(options)


if __name__ == "__main__":
    main()
