#!/usr/bin/env python3
"""Measures how long somebody with Python waits for a trained student: makes a fresh virtual environment, installs the
wheel with what it needs from PyPI, starts its server, runs the cells of a notebook there, and prints the time of each.

    make wheel
    benches/install.py dist/distillery-*.whl       # downloads PyTorch with CUDA's libraries, unless pip has them

Another notebook may follow the wheel. What pip prints, the server's log and what the cells print go to standard error.
Needs only Python's standard library.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 600


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("wheel", type=pathlib.Path)
    parser.add_argument("notebook", nargs="?", type=pathlib.Path, default=ROOT / "examples/client.ipynb")
    parser.add_argument("--extras", default="pandas,onnx", help="of the wheel; default: all")
    arguments = parser.parse_args()
    for file in (arguments.wheel, arguments.notebook):
        if not file.is_file():
            parser.error(f"there is no file {file}: `make wheel` makes the wheel in dist/")
    wheel, notebook = arguments.wheel.resolve(), arguments.notebook.resolve()
    with tempfile.TemporaryDirectory(prefix="distillery-install-") as directory:
        rows = measure(pathlib.Path(directory), f"{wheel}[{arguments.extras}]" if arguments.extras else wheel, notebook)
    print("| step | seconds |\n| --- | --- |")
    for step, seconds in rows:
        print(f"| {step} | {seconds:.1f} |")


def measure(directory, wheel, notebook):
    """Each step with its seconds."""
    rows = []

    @contextlib.contextmanager
    def step(name):
        began = time.monotonic()
        yield
        rows.append((name, time.monotonic() - began))

    programs = directory / "env/bin"
    with step("a virtual environment"):
        venv.create(directory / "env", with_pip=True)
    with step("`pip install` of the wheel and what it needs"):
        run(programs / "python", "-m", "pip", "install", "--disable-pip-version-check", wheel)
    with step("`distillery --version`"):
        run(programs / "distillery", "--version")
    with contextlib.ExitStack() as stack:
        with step("`distillery serve` until it listens, with a new database"):
            address = stack.enter_context(server(programs / "distillery", directory))
        script = directory / "notebook.py"
        script.write_text(code_of(notebook))
        with step(f"the cells of `{notebook.name}`"):
            run(programs / "python", script, cwd=directory, DISTILLERY_URL=address)
    return rows


def environment(**more):
    """That of a user who has set nothing of distillery's or of another Python's."""
    foreign = ("DISTILLERY_", "PYTHON", "DATABASE_URL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(foreign)}, **more}


def run(*command, cwd=None, **variables):
    done = subprocess.run(command, cwd=cwd, stdout=sys.stderr, env=environment(**variables))
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}")


@contextlib.contextmanager
def server(program, directory):
    """The address of the wheel's server, which offers the digits and has one worker for each device."""
    command = [program, "serve", "--listen", "127.0.0.1:0"]
    command += ["--data-dir", directory / "data", "--datasets-dir", ROOT / "examples/data"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        address = re.search(r"http://\S+", process.stdout.readline())
        if not address:
            sys.exit("the server did not start: its log above says why")
        yield address[0]
    finally:
        process.terminate()
        process.wait(PATIENCE)


def code_of(notebook):
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


if __name__ == "__main__":
    main()
