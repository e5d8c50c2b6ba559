"""Keeps the tables and plots of docs/fidelity.md as the records have them."""

import os
import re

from .claims import claims_table, shares_table
from .experiments import PLANS
from .plot import svg
from .records import ROOT, Records
from .tables import comparisons, head, results, runs

DOCUMENT = ROOT / "docs/fidelity.md"
BLOCK = re.compile(r"<!-- evidence: (?P<name>\S+) -->\n(?P<content>.*?)<!-- /evidence -->\n", re.DOTALL)
# Blocks about all experiments together. The others are called as their experiment.
TOGETHER = {"claims": claims_table, "shares": shares_table}


class Broken(Exception):
    """The document or a file of records cannot be used."""


def read_all(directory):
    """The records by name: those of the table of experiments in its order, and then the others."""
    names = {path.stem for path in directory.glob("*.json")}
    names = [name for name in PLANS if name in names] + sorted(names - set(PLANS))
    files = {}
    for name in names:
        try:
            records = Records.read(directory / f"{name}.json")
        except (ValueError, KeyError) as error:
            raise Broken(f"{directory / name}.json is no file of records: {error!r}") from error
        if records.students:
            files[name] = records
    return files


def block(name, files, plots):
    """The content of a block; `plots` is the path to the directory of plots from the document."""
    if name in TOGETHER:
        return TOGETHER[name](files)
    if name not in files:
        return f"Not run yet: `benches/evidence.py run {name}`."
    records = files[name]
    parts = [head(records), results(records), comparisons(records)]
    if svg(records):
        parts.append(f"![What regions gain over epochs]({plots}/{name}.svg)")
    return "\n\n".join([*parts, runs(records)])


def expected(directory, document):
    """The text of each file that is made from the records, by path; `None` for one that must not be there."""
    text = document.read_text()
    files = read_all(directory)
    found = BLOCK.findall(text)
    names = [name for name, _ in found]
    if text.count("<!-- evidence:") != len(names) or text.count("<!-- /evidence -->") != len(names):
        raise Broken(f"{document}: every <!-- evidence: NAME --> needs a <!-- /evidence --> on a line of its own")
    if missing := [name for name in files if name not in names]:
        raise Broken(f"{document} has no place for records of {', '.join(missing)}: add <!-- evidence: {missing[0]} "
                     "--> and <!-- /evidence -->, or move the file")
    if unknown := [name for name in names if name not in (*TOGETHER, *PLANS, *files)]:
        raise Broken(f"{document}: nothing is recorded for <!-- evidence: {unknown[0]} -->")
    link = os.path.relpath(directory, document.parent)
    fresh = lambda of: f"<!-- evidence: {of['name']} -->\n\n{block(of['name'], files, link)}\n\n<!-- /evidence -->\n"
    plots = {directory / f"{name}.svg": svg(records) for name, records in files.items()}
    plots |= {path: None for path in directory.glob("*.svg") if path not in plots}
    return {document: BLOCK.sub(fresh, text), **plots}


def differences(wanted):
    """The files that are not as wanted."""
    return [path for path, text in wanted.items() if (path.read_text() if path.exists() else None) != text]
