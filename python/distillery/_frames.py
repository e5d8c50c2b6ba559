"""Answers as pandas' data frames."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from .errors import JobWarning

if TYPE_CHECKING:
    import pandas

# What a network predicts for an image.
_ANSWER = ("predicted", "class", "confidence", "label_probability")


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


def of_groups(groups: dict[str, Any]) -> pandas.DataFrame:
    """One row per group, with a column for each thing that its jobs have in common."""
    rows = []
    for group in groups["data"]:
        kept = {name: value for name, value in group.items() if name != "values"}
        rows.append({**dict(zip(groups["by"], group["values"])), **kept})
    columns = ["top1", "deviation", "n", "copies", "best", "datasets", "gain", "baseline_deviation", "jobs"]
    left = groups["total"] - len(rows)
    if left > 0:
        warnings.warn(f"{left} more groups are left out: raise the limit, or group by less", JobWarning, stacklevel=3)
    mixed = sum(group.get("datasets", 1) > 1 for group in groups["data"])
    if mixed:
        text = f"{mixed} of {len(rows)} groups pool jobs of different data sets, whose accuracies cannot be compared"
        warnings.warn(f"{text}: group by dataset, too", JobWarning, stacklevel=3)
    return _pandas().DataFrame(rows, columns=[*groups["by"], *columns])


def of_predictions(images: list[Any]) -> pandas.DataFrame:
    """One row per image, with what each network predicts in columns of their own."""
    rows = []
    for image in images:
        row = {name: image.get(name) for name in ("position", "label", "class", "outcome", "difference")}
        for network in ("student", "teacher"):
            answer = image.get(network) or {}
            for name in _ANSWER:
                row[f"{network}_{name}"] = answer.get(name)
        rows.append(row)
    columns = ["position", "label", "class", "outcome", "difference"]
    columns += [f"{network}_{name}" for network in ("student", "teacher") for name in _ANSWER]
    return _pandas().DataFrame(rows, columns=columns)


def of_classes(report: dict[str, Any]) -> pandas.DataFrame:
    """One row per class, by its number."""
    columns = ["class", "name", "images", "student", "teacher", "agreement", "student_predicted", "teacher_predicted"]
    return _pandas().DataFrame(report["classes"], columns=columns).set_index("class")


def of_confusion(report: dict[str, Any], network: str) -> pandas.DataFrame:
    """Numbers of images: a row for each label, a column for each predicted class."""
    if network not in ("student", "teacher"):
        raise ValueError(f"network is {network!r}, and can be 'student' or 'teacher'")
    if report.get(network) is None:
        raise ValueError(f"the job has no {network}")
    names = [one["class"] if one.get("name") is None else one["name"] for one in report["classes"]]
    counts = [[0] * len(names) for _ in names]
    for cell in report["cells"]:
        counts[cell["label"]][cell["predicted"]] = cell[network]
    pd = _pandas()
    frame = pd.DataFrame(counts, index=pd.Index(names, name="label"), columns=pd.Index(names, name="predicted"))
    if report["cells_left_out"]:
        frame.attrs["cells_left_out"] = report["cells_left_out"]
        warnings.warn(
            f"the server lists the most frequent pairs of label and predicted class only: {report['cells_left_out']} "
            "others are 0 here. The artifact predictions.safetensors has every image",
            JobWarning,
            stacklevel=3,
        )
    return frame


def of_csv(text: str) -> pandas.DataFrame:
    """The rows of a CSV document."""
    pd = _pandas()
    version = tuple(int(part) for part in pd.__version__.split(".")[:2])
    # Since 3.1 all numbers are read exactly, and the argument is deprecated.
    exact = {} if version >= (3, 1) else {"float_precision": "round_trip"}
    return pd.read_csv(io.StringIO(text), **exact)


def _pandas():
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a data frame needs pandas: pip install pandas. `series`, `prediction_report`, `predictions` and "
            "`sweep_details` need nothing"
        ) from error
    return pandas
