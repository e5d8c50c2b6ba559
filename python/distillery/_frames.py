"""Answers as pandas' data frames."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


def of_series(series: list[dict[str, Any]], wide: bool) -> pandas.DataFrame:
    """One row per point with its name; or, if `wide`, one row per step with a column for each name."""
    pd = _pandas()
    rows = [{"name": one["name"], **point} for one in series for point in one["points"]]
    frame = pd.DataFrame(rows, columns=["name", "step", "epoch", "time", "value"])
    frame["time"] = pd.to_datetime(frame["time"], utc=True, format="ISO8601")
    if wide:
        return frame.pivot_table(index=["step", "epoch"], columns="name", values="value").reset_index("epoch")
    return frame


def of_students(pareto: dict[str, Any]) -> pandas.DataFrame:
    """One row per student, with the medians of its latency in columns of their own."""
    rows = []
    for student in pareto["data"]:
        latency = student["latency"] or {"cpu": None, "batches": []}
        medians = {batch["batch"]: batch["median_ms"] for batch in latency["batches"]}
        missed = [one["constraint"] for one in student["missed"]]
        more = {"latency_ms": medians.get(1), "latency_64_ms": medians.get(64), "cpu": latency["cpu"]}
        kept = {name: value for name, value in student.items() if name not in ("latency", "missed")}
        rows.append({**kept, **more, "missed": missed})
    return _pandas().DataFrame(rows)


def of_csv(text: str) -> pandas.DataFrame:
    """The rows of a CSV document."""
    return _pandas().read_csv(io.StringIO(text))


def _pandas():
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a data frame needs pandas: pip install pandas. `series` needs nothing") from error
    return pandas
