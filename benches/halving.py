#!/usr/bin/env python3
"""Measures what successive halving saves: trains the combinations of a sweep by halving and as a grid on a running
server, and prints which one won, what each cost, and whether the students of both have the same bytes.

    distillery serve --datasets-dir examples/data
    benches/halving.py                             # examples/digits/sweep.json: 36 jobs of eight epochs, and the grid's
    benches/halving.py SWEEP.json --teacher job_…  # another sweep by halving, whose "$TEACHER" is that job

Halving comes first, so that it pays for the teacher's logits, which the grid finds in the worker's cache. Both are
posted with idempotency keys: an interrupted command goes on where it was. Another --name measures again. Needs only
Python's standard library.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import time

from trials.server import FINAL, Server

ROOT = pathlib.Path(__file__).resolve().parents[1]
BETWEEN_POLLS = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("sweep", nargs="?", type=pathlib.Path, default=ROOT / "examples/digits/sweep.json")
    parser.add_argument("--server", default="http://127.0.0.1:8080", help="its token, if any, is DISTILLERY_TOKEN")
    parser.add_argument("--teacher", help="a job; default: that of examples/digits/teacher.json, trained first")
    parser.add_argument("--name", help="of both sweeps; default: that of the file")
    arguments = parser.parse_args()
    server = Server(arguments.server)
    text = arguments.sweep.read_text()
    if "$TEACHER" in text:
        text = text.replace("$TEACHER", arguments.teacher or trained_teacher(server))
    document = json.loads(text)
    if document.get("strategy", {}).get("type") != "halving":
        sys.exit(f"{arguments.sweep} has no strategy halving: name a sweep that has rungs")
    name = arguments.name or document["name"]
    halving = finished(server, {**document, "name": f"{name}, halving"})
    grid = finished(server, as_grid({**document, "name": f"{name}, grid"}))
    print(table(halving, grid))
    compared, different = compare_bytes(server, halving, grid)
    print(f"\n{compared - len(different)} of {compared} students of both have the same bytes.")
    if different or winner(halving) != winner(grid):
        sys.exit("\n".join(["the two differ:", f"  winners {winner(halving)} and {winner(grid)}", *different]))


def trained_teacher(server):
    job = server.post(json.loads((ROOT / "examples/digits/teacher.json").read_text()))
    while (status := server.job(job)["status"]) not in FINAL:
        time.sleep(BETWEEN_POLLS)
    if status != "succeeded":
        sys.exit(f"the teacher, {job}, is {status}: its page says why")
    return job


def as_grid(document):
    """The same jobs, trained to the last rung."""
    base = document["base"]
    training = {**base.get("training", {}), "epochs": document["strategy"]["rungs"][-1]}
    return {**document, "base": {**base, "training": training}, "strategy": {"type": "grid"}}


def finished(server, document):
    """The sweep, once it has ended."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    sweep = server.json("POST", "/v1/sweeps", document, [("idempotency-key", f"halving-{digest}")])
    print(f"{server.address}/#/sweeps/{sweep['id']}  {document['name']}", file=sys.stderr, flush=True)
    while sweep["status"] not in ("finished", "cancelled"):
        time.sleep(BETWEEN_POLLS)
        sweep = server.json("GET", f"/v1/sweeps/{sweep['id']}")
    if sweep["jobs"].get("failed") or sweep["status"] == "cancelled":
        sys.exit(f"{document['name']} is {sweep['status']}, with the jobs {sweep['jobs']}: they cannot be compared")
    return sweep


def winner(sweep):
    return sweep["results"][0]["settings"]


def cost(sweep):
    return sum(result["cost_seconds"] for result in sweep["results"])


def table(halving, grid):
    def top1(sweep):
        best = sweep["results"][0]
        deviation = "" if best["deviation"] is None else f" ± {best['deviation']:.2f}"
        return f"{best['top1']:.2f}{deviation} %, n = {best['n']}"

    def share(sweep):
        return f"{cost(sweep):.0f} s ({cost(sweep) / cost(grid):.0%})"

    def trained(sweep):
        return f"{sum(sweep['jobs'].values())}, {sweep['jobs']['succeeded']}"

    rows = [
        ("best combination", lambda sweep: f"`{json.dumps(winner(sweep))}`"),
        ("its top-1", top1),
        ("jobs, of these trained to the end", trained),
        ("time that devices were held", share),
    ]
    lines = [f"| {title} | {of(halving)} | {of(grid)} |" for title, of in rows]
    return "\n".join(["| | halving | grid |", "| --- | --- | --- |", *lines])


def compare_bytes(server, halving, grid):
    """How many students both sweeps have, and which of them differ."""
    def students(sweep):
        found = {}
        for result in sweep["results"]:
            settings = json.dumps(result["settings"], sort_keys=True)
            for job in result["jobs"]:
                if job["status"] == "succeeded":
                    found[settings, job["seed"]] = server.job(job["id"])["result"]["student"]["sha256"]
        return found

    ours, theirs = students(halving), students(grid)
    both = sorted(ours.keys() & theirs.keys())
    return len(both), [f"  {key[0]}, seed {key[1]}" for key in both if ours[key] != theirs[key]]


if __name__ == "__main__":
    main()
