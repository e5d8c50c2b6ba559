#!/usr/bin/env python3
"""Tests whether SDD helps: trains a pair of networks with every method and several seeds on a running server, and makes
tables and plots of what it has measured.

    distillery serve --datasets-dir DIR
    benches/evidence.py run imagewoof cifar100     # without names: all that a CPU can do, one after the other
    benches/evidence.py report                     # needs no server

DIR/cifar100 has the parquet files of Hugging Face's uoft-cs/cifar100, and DIR/imagewoof80 those of Imagewoof with
images of 64 pixels or more: columns `image` and `label`, splits `train` and `validation`. The experiments are a table
in benches/trials/experiments.py.

`run` keeps what it has measured in docs/evidence/NAME.json, one record per run: accuracies, the curve of eval/top1,
time, machine, versions. It writes the file after each run, and never makes a run again that is recorded. A run is
recognised by the hash of its job's document, without the job's name and with its teacher's hash in place of an id, so
this holds for another server, too, even an empty one. Within a server, an idempotency key does the same for jobs that
have not ended: an interrupted `run` goes on where it was. Runs go seed by seed, so that whatever ends early has whole
seeds of all methods. The teacher is trained first. Its file is kept in data/evidence, for further seeds on another
server; a teacher that was trained again must have the same bytes, or the program stops.

`report` writes the tables and plots between the markers of docs/fidelity.md from the records alone. With --check it
writes nothing, and fails if they are not what the records say.

The published figures are for the best of 240 epochs on all 50,000 images. A shorter schedule shows which method learns
more from the same steps; it does not reproduce the paper's tables. Needs only Python's standard library.
"""

import argparse
import dataclasses
import pathlib
import sys

from trials.document import DOCUMENT, Broken, differences, expected
from trials.experiments import CIFAR100, PLANS, Method
from trials.records import DIRECTORY, ROOT, Mismatch, Records, write
from trials.running import Runner
from trials.server import Server
from trials.tables import comparisons, results


def method(text):
    try:
        Method.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from error
    return text


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is not recorded yet")
    run.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(PLANS)}; default: "
                     f"{', '.join(name for name, plan in PLANS.items() if plan.is_default)}")
    run.add_argument("--server", default="http://127.0.0.1:8080", help="its token, if any, is DISTILLERY_TOKEN")
    run.add_argument("--records", type=pathlib.Path, default=DIRECTORY, metavar="DIR", help="default: docs/evidence")
    run.add_argument("--teachers", type=pathlib.Path, default=ROOT / "data/evidence", metavar="DIR",
                     help="where teachers' files are kept; default: data/evidence")
    run.add_argument("--poll", type=float, default=15.0, help="seconds between polls")
    run.add_argument("--seeds", type=positive)
    run.add_argument("--methods", nargs="+", type=method, metavar="METHOD",
                     help="such as kd, sdd_kd, sdd_kd+ls (standardised logits), sdd_kd:1,2,4 (scales)")
    run.add_argument("--name", help="record under this name: for one experiment with any of the following")
    run.add_argument("--dataset", help="below the server's --datasets-dir")
    run.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"))
    run.add_argument("--scales", nargs="+", type=positive, help="of the sdd_ methods that name none")
    run.add_argument("--epochs", type=positive)
    run.add_argument("--limit", type=positive, help="students train on that many images, spread over the classes")
    run.add_argument("--teacher-epochs", type=positive)
    run.add_argument("--teacher-limit", type=positive)
    run.add_argument("--image-size", type=positive)
    run.add_argument("--batch-size", type=positive)
    run.add_argument("--schedule", choices=("multistep", "cosine", "constant"))
    run.add_argument("--views", type=int, help="views of an image; 0: always another one")
    run.add_argument("--precision", choices=("float32", "bfloat16"), help="default: the server's choice")
    run.add_argument("--eval-every-epochs", type=positive)
    report = commands.add_parser("report", help="write tables and plots of what is recorded into docs/fidelity.md")
    report.add_argument("--check", action="store_true", help="write nothing; fail if they are not up to date")
    report.add_argument("--records", type=pathlib.Path, default=DIRECTORY, metavar="DIR", help="default: docs/evidence")
    report.add_argument("--document", type=pathlib.Path, default=DOCUMENT, help="default: docs/fidelity.md")
    options = parser.parse_args(arguments)
    if options.command == "run":
        options.experiments = options.experiments or [name for name, plan in PLANS.items() if plan.is_default]
        for name in options.experiments:
            if name not in PLANS:
                parser.error(f"no experiment is called {name!r}: choose from {', '.join(PLANS)}")
        if len(options.experiments) > 1 and (options.name or changes(options)):
            parser.error("--name and what changes an experiment are for one experiment: name it")
        if changes(options) and not options.name:
            parser.error("these options make another experiment: give it a --name")
    return options


def changes(options):
    """What the options change about an experiment."""
    fields = ("dataset", "pair", "scales", "epochs", "limit", "teacher_epochs", "teacher_limit", "image_size",
              "batch_size", "schedule", "views", "precision", "eval_every_epochs")
    given = {field: getattr(options, field) for field in fields if getattr(options, field) is not None}
    given |= {field: tuple(given[field]) for field in ("pair", "scales") if field in given}
    if "pair" in given:
        # Those of an experiment are for its own pair.
        given.setdefault("scales", ())
    return given


def run(options):
    complete = True
    for name in options.experiments:
        plan = PLANS[name]
        experiment = dataclasses.replace(plan.experiment, **changes(options))
        name = options.name or name
        try:
            records = Records.open(options.records / f"{name}.json", name, experiment.settings())
        except Mismatch as mismatch:
            sys.exit(str(mismatch))
        runner = Runner(Server(options.server), experiment, records, options.methods or plan.methods,
                        options.seeds or plan.seeds, teachers=options.teachers, poll=options.poll)
        complete &= runner.run()
        show(records)
    return 0 if complete else 1


def show(records):
    print(f"\n{results(records)}\n\n{comparisons(records)}\n")


def report(options):
    try:
        wanted = expected(options.records, options.document)
    except Broken as broken:
        sys.exit(str(broken))
    stale = differences(wanted)
    if options.check:
        for path in stale:
            print(f"{path} is not what the records say: run benches/evidence.py report", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        if wanted[path] is None:
            path.unlink()
        else:
            write(path, wanted[path])
        print(f"{path}: {'removed' if wanted[path] is None else 'written'}")
    return 0


if __name__ == "__main__":
    options = parse()
    try:
        sys.exit({"run": run, "report": report}[options.command](options))
    except KeyboardInterrupt:
        sys.exit("Interrupted. The server goes on with the jobs that it has; the same command records them.")
