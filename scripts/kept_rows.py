"""Rows of a table that a long command measures, kept so that it goes on where it was stopped."""

import datetime
import hashlib
import json
import os
import pathlib
import platform

ROOT = pathlib.Path(__file__).resolve().parent.parent


def machine():
    """The processor's name, and how many of its cores this process may use."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def sha256(*paths):
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(pathlib.Path(path).read_bytes()).digest())
    return digest.hexdigest()


def replace_section(document, command, text):
    """Replaces what a document has between the comments of a command."""
    begin, end = f"<!-- {command}: begin -->", f"<!-- {command}: end -->"
    before, rest = document.read_text().split(begin)
    _, after = rest.split(end)
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


class KeptRows:
    """Rows by name in target/NAME.json. They are those of one run: of the same programs, settings and machine."""

    def __init__(self, name, conditions):
        self.path = ROOT / "target" / f"{name}.json"
        conditions = json.loads(json.dumps(conditions | {"machine": machine()}))
        try:
            self.kept = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.kept = {}
        if self.kept.get("conditions") != conditions:
            if self.kept.get("rows"):
                print(f"{self.path} is of other programs, settings or another machine: starting over", flush=True)
            self.kept = {"conditions": conditions, "begun": datetime.date.today().isoformat(), "rows": {}}
        elif self.kept["rows"]:
            print(f"going on after {len(self.kept['rows'])} rows in {self.path}; remove it to start over", flush=True)

    def get(self, name):
        return self.kept["rows"].get(name)

    def put(self, name, row):
        self.kept["rows"][name] = row
        self.path.parent.mkdir(exist_ok=True)
        # As a whole or not at all.
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.kept, indent=1))
        new.replace(self.path)

    def where(self):
        """On which day the run began, and on which machine."""
        return f"{self.kept['begun']}, {self.kept['conditions']['machine']}"
