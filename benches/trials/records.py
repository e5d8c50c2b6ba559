"""What is kept of the runs of an experiment: a file of JSON in the repository, with one record per run."""

import json
import os
import pathlib
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs/evidence"


class Mismatch(Exception):
    """The file has runs of another experiment."""


class Records:
    def __init__(self, path, name, settings):
        self.path = path
        self.name = name
        self.settings = settings
        self.records = []

    @classmethod
    def read(cls, path):
        document = json.loads(path.read_text())
        self = cls(path, document["name"], document["settings"])
        self.records = document["records"]
        return self

    @classmethod
    def open(cls, path, name, settings):
        """The file's records, or none yet."""
        if not path.exists():
            return cls(path, name, settings)
        self = cls.read(path)
        differs = [key for key in {**self.settings, **settings} if self.settings.get(key) != settings.get(key)]
        if differs:
            was = ", ".join(f"{key} {json.dumps(self.settings.get(key))}, not {json.dumps(settings.get(key))}"
                            for key in differs)
            raise Mismatch(f"{path} has runs of another experiment: {was}. Record these under another --name.")
        return self

    def find(self, identity):
        return next((record for record in self.records if record["document"] == identity), None)

    @property
    def teacher(self):
        return next((record for record in self.records if record["method"] == "teacher"), None)

    @property
    def students(self):
        return [record for record in self.records if record["method"] != "teacher"]

    def add(self, record):
        """Adds a run and writes the file, which is replaced as a whole or not at all."""
        self.records.append(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, self.text())

    def text(self):
        """One line per record, so that a change of the file shows which runs are new."""
        head = json.dumps({"name": self.name, "settings": self.settings}, indent=2, ensure_ascii=False)
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in self.records)
        return head.removesuffix("\n}") + f',\n  "records": [\n{lines}\n  ]\n}}\n'


def write(path, content):
    """Replaces a file by a text or by bytes, as a whole or not at all."""
    content = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is readable by its owner only.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
