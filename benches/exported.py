#!/usr/bin/env python3
"""Compares training steps of networks that torch.export wrote with the same networks in eager PyTorch, on this machine.

    make bench-exported                                              # three pairs of timm at 64 pixels
    make bench-exported SIDE=224
    benches/exported.py --pair resnet18 mobilenetv3_small_050        # others

As in benches/compare.py, both sides of a pair stay loaded and take turns, and the result is the median of all steps.
"""

import argparse
import os
import pathlib
import subprocess
import tempfile

import compare

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
    print(f"milliseconds per step, {options.side} pixels, scales {', '.join(map(str, scales))}, batch {options.batch}, "
          f"{options.threads} threads, {kind}; median of {options.rounds * options.steps} steps, {options.steps} per turn\n")
    print("| pair | PyTorch, eager | here, float32 | ratio | here, bfloat16 | ratio |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for pair in options.pairs or PAIRS:
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
            theirs, single, brain = (side.end() for side in sides)
        print(f"| {pair[0]} → {pair[1]} | {theirs:.0f} | {single:.0f} | {theirs / single:.2f} | {brain:.0f} "
              f"| {theirs / brain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
