#!/usr/bin/env python3
"""Compares the reading of streamed data sets with torch.utils.data.DataLoader (benches/pytorch/loader.py) on this
machine.

    make bench-pipeline                                                      # builds and installs what it needs
    benches/pipeline.py --rounds 5 --threads 1 2 --pictures /tmp/pictures    # keeps the generated pictures

Synthetic photographs (benches/pytorch/pictures.py) are randomly cropped and resized to 224 × 224, as for ImageNet; PNGs
of 32 × 32 are read whole, as for CIFAR. The two sides take turns. Printed are the medians of images per second and of
images per second of processor time, which matters on a busy machine, and the peak memory of a side's processes,
counting shared memory once.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import threading

from compare import ENVIRONMENT, ROOT, bench_program

CASES = {
    "folder of JPEGs, crops": ("folder", "folder", ["--crop", "224"]),
    "parquet of JPEGs, crops": ("parquet", "parquet", ["--crop", "224"]),
    "parquet of PNGs, 32 × 32": ("parquet", "small", []),
}


def tree(root):
    """The process `root` and its descendants."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) if entry.name.isdigit() else None
        except OSError:
            continue
        children.setdefault(parent, []).append(entry.name)
    found = [str(root)]
    for process in found:
        found += children.get(int(process), [])
    return found


def memory(process):
    """The proportional set size of a process, in bytes."""
    try:
        lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def measure(command):
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    peak, ended = 0, threading.Event()

    def watch():
        nonlocal peak
        while not ended.wait(0.1):
            peak = max(peak, sum(memory(member) for member in tree(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    line = process.stdout.read()
    ended.set()
    watcher.join()
    if process.wait():
        raise SystemExit(f"{command[0]} failed")
    found = json.loads(line)
    return found | {"rate": found["images"] / found["seconds"], "share": found["images"] / found["processors"], "peak": peak}


def compare(options, program, pictures):
    print(f"load before: {os.getloadavg()[0]:.1f}; batch 64; medians of {options.rounds}\n")
    print("| | threads, workers | PyTorch, images/s | here | ratio | PyTorch, images per processor second | here | ratio "
          "| PyTorch, memory | here | read |\n|" + " --- |" * 11, flush=True)
    for name, (kind, directory, arguments) in CASES.items():
        path = pictures / directory
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        for threads in options.threads:
            theirs = [options.python, ROOT / "benches/pytorch/loader.py", kind, path, *arguments, "--workers", threads]
            ours = [program, path, *arguments, "--threads", threads]
            sides = [], []
            for _ in range(options.rounds):
                for command, of in zip((theirs, ours), sides):
                    of.append(measure(command))
            columns = [name, str(threads)]
            for key in ("rate", "share"):
                medians = [statistics.median(run[key] for run in of) for of in sides]
                columns += [*(f"{median:,.0f}" for median in medians), f"{medians[1] / medians[0]:.2f}"]
            columns += [f"{max(run['peak'] for run in of) / 1e6:,.0f} MB" for of in sides]
            columns.append(f"{statistics.median(run['read_bytes'] for run in sides[1]) / size:.1f} ×")
            print(f"| {' | '.join(columns)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=pathlib.Path, help="directory of pictures, made if absent")
    parser.add_argument("--python", default=str(ROOT / ".deps/pytorch_bench/run"))
    parser.add_argument("--program", help="the trainer's bench `pipeline`, if already built")
    parser.add_argument("--profile", help="cargo profile; default: bench")
    options = parser.parse_args()
    program = bench_program(options, "pipeline")
    with tempfile.TemporaryDirectory() as directory:
        pictures = options.pictures or pathlib.Path(directory) / "pictures"
        if not pictures.exists():
            painted = subprocess.run([options.python, ROOT / "benches/pytorch/pictures.py", pictures], check=True,
                                     stdout=subprocess.PIPE, text=True)
            print(painted.stdout, end="")
        compare(options, program, pictures)


if __name__ == "__main__":
    main()
