#!/usr/bin/env python3
"""Compares training steps of networks that torch.export wrote with the same networks in eager PyTorch, on this machine.

    make bench-exported                  # three pairs of timm at 64 pixels, and the table in docs/networks.md
    make bench-exported SIDE=224
    benches/exported.py --pair resnet18 mobilenetv3_small_050        # others

As in benches/compare.py, both sides of a pair stay loaded and take turns, and the result is the median of all steps.
A run that was stopped goes on with the pair that it was at.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import compare

sys.path.insert(0, str(compare.ROOT / "scripts"))
import kept_rows  # noqa: E402

TABLE = compare.ROOT / "docs/networks.md"
SOURCES = compare.ROOT / "benches/pytorch"
PAIRS = [
    ("resnet18", "mobilenetv3_small_050"),
    ("convnext_atto", "mobilenetv3_small_050"),
    ("vit_tiny_patch16_224", "resnet18"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pair", nargs=2, action="append", metavar=("TEACHER", "STUDENT"), dest="pairs",
                        help="names of timm")
    parser.add_argument("--side", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--scales", type=int, nargs="+", help="default: 1 2, and 4 from 128 pixels on")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=3, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--python", default=str(compare.ROOT / ".deps/networks/run"))
    parser.add_argument("--program", help="the trainer's bench `step`, if already built")
    parser.add_argument("--profile", help="cargo profile; default: bench")
    options = parser.parse_args()
    scales = options.scales or ([1, 2, 4] if options.side >= 128 else [1, 2])
    program = compare.bench_program(options)
    eager = [options.python, str(compare.ROOT / "benches/pytorch/exported.py"), "--side", str(options.side)]
    kind = "processor time per thread" if options.processor_time else "wall time"
    head = (f"Milliseconds per step, {options.side} pixels, scales {', '.join(map(str, scales))}, batch {options.batch}, "
            f"{options.threads} threads, {kind}; median of {options.rounds * options.steps} steps, {options.steps} per turn")
    columns = "| pair | PyTorch, eager | here, float32 | ratio | here, bfloat16 | ratio |\n" + "| --- " * 6 + "|"
    print(f"{head}\n\n{columns}", flush=True)
    # Others are only printed.
    is_documented = not options.pairs and options.device == "cpu" and options.side == 64
    programs = kept_rows.sha256(program, *sorted(SOURCES.glob("*.py")))
    conditions = {"head": head, "versions": versions(), "programs": programs}
    kept = kept_rows.KeptRows("bench-exported", conditions) if is_documented else None
    rows = []
    for pair in options.pairs or PAIRS:
        name = " → ".join(pair)
        row = kept.get(name) if kept else None
        if row is None:
            row = measured(options, pair, program, eager, scales)
        theirs, single, brain = row
        rows.append(f"| {name} | {theirs:.0f} | {single:.0f} | {theirs / single:.2f} | {brain:.0f} | {theirs / brain:.2f} |")
        print(rows[-1], flush=True)
        if kept:
            kept.put(name, row)
            table = "\n".join([columns, *rows])
            kept_rows.replace_section(TABLE, "make bench-exported", f"{head} ({versions()}; {kept.where()}).\n\n{table}")


def versions():
    """Those of PyTorch and timm, which scripts/setup installs."""
    pins = "".join((compare.ROOT / "requirements" / name).read_text() for name in ("cpu.txt", "networks.txt"))
    pinned = lambda package: re.search(rf"^{package}==(\S+)", pins, re.MULTILINE).group(1)
    return f"PyTorch {pinned('torch')}, timm {pinned('timm')}"


def measured(options, pair, program, eager, scales):
    """Milliseconds per step of a pair: in PyTorch, and here in float32 and bfloat16."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([*eager, "--pair", *pair, "--export", directory], check=True, env=compare.ENVIRONMENT)
        files = [str(pathlib.Path(directory, name)) for name in ("teacher.pt2", "student.pt2")]
        request = ["--device", options.device, "--steps", str(options.steps), "--on-request",
                   "--scales", *map(str, scales), *compare.common(options)]
        sides = [compare.Side([*eager, "--pair", *pair, *request])]
        ours = [program, "--pair", *files, *request]
        sides += [compare.Side([*ours, "--precision", precision]) for precision in ("float32", "bfloat16")]
        for _ in range(options.rounds):
            for side in sides:
                side.measure()
        return [side.end() for side in sides]


if __name__ == "__main__":
    main()
