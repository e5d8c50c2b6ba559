"""The operations of both clients."""

from __future__ import annotations

import difflib
import os
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ._connection import send
from ._packed import source_of
from ._pieces import send_in_pieces
from ._shards import send_shards
from ._source import Names, Paths
from ._status import ENDED
from ._steps import Body, Call, Operation, Sleep, T
from .errors import (
    Damaged,
    DistilleryError,
    JobCancelled,
    JobFailed,
    JobWarning,
    Refused,
    SweepCancelled,
    Unreachable,
    UploadWarning,
)
from .predictions import Predictions

# Pause between two requests for a job that is waited for, in seconds.
_POLL = 1.0
# How long to retry a lost connection, in seconds.
_RECONNECT = 300.0
# Most names of series in a warning.
_LISTED = 40
# In the note that the paths of the machine that exported a network were removed, which nobody has to act on.
_TRACES = "stack traces"
# Most entries on a page of a list.
_PAGE = 100


def id_of(job: Mapping[str, Any] | str) -> str:
    """The id, given a document or an id."""
    return job if isinstance(job, str) else job["id"]


def names_of(names: Names) -> list[str]:
    """A list of names; a plain string is one name."""
    return [names] if isinstance(names, str) else list(names)


def get(*path: str, **params: Any) -> Operation[Any]:
    """`GET`: a JSON document."""
    given = {name: value for name, value in params.items() if value is not None}
    return (yield from send(Call("GET", path, given))).json()


def get_list(*path: str) -> Operation[list[Any]]:
    """`GET`: the entries of a list."""
    return (yield from get(*path))["data"]


def change(job: Mapping[str, Any] | str, verb: str) -> Operation[Any]:
    """Asks for a job to be cancelled, paused, resumed or retried."""
    return (yield from send(Call("POST", ("v1", "jobs", id_of(job), verb)))).json()


def delete(*path: str) -> Operation[None]:
    """`DELETE`"""
    yield from send(Call("DELETE", path))


def upload(file: str | os.PathLike[str], params: Mapping[str, Any], progress: bool) -> Operation[Any]:
    """Sends a checkpoint. The same bytes are the same checkpoint, so it is safe to send them again."""
    body = _body(file, progress)
    given = {"name": body.path.name, **{name: value for name, value in params.items() if value is not None}}
    checkpoint = (yield from send(Call("PUT", ("v1", "checkpoints"), given, body=body))).json()
    # One state dict of several is stored as another file, and an exported network without its stack traces.
    is_without_traces = any(_TRACES in note for note in checkpoint["notes"])
    if checkpoint["size_bytes"] == body.size and checkpoint["sha256"] != body.sha256 and not is_without_traces:
        raise Damaged(
            f"the server stored other bytes than {file} has: something between here and it changed them. Delete "
            f"{checkpoint['id']}, and upload the file again"
        )
    _warn_of_upload(checkpoint["id"], checkpoint)
    return checkpoint


def _warn_of_upload(name: str, found: Mapping[str, Any]) -> None:
    """Passes on what may not be as meant."""
    notes = [note for kind in ("warnings", "notes") for note in found.get(kind) or [] if _TRACES not in note]
    for note in notes:
        warnings.warn(f"{name}: {note}", UploadWarning, stacklevel=2)


def upload_dataset(name: str, file: Paths, split: str | None, progress: bool) -> Operation[Any]:
    """Sends a data set, or the shards of a split. The same files are the same version."""
    notes: list[str] = []
    if split is not None:
        files = [file] if isinstance(file, (str, os.PathLike)) else file
        version = yield from send_shards(name, files, split, progress)
    elif isinstance(file, (str, os.PathLike)):
        source = source_of(file)
        notes = source.notes
        version = yield from send_in_pieces(name, source, progress)
    else:
        raise TypeError(
            "several files are the shards of one split: name it with split=, or upload the files one by one"
        )
    _warn_of_upload(name, {"notes": [*notes, *(version.get("notes") or [])]})
    return version


def unfinished_uploads() -> Operation[list[Any]]:
    """What was uploaded and is no data set yet."""
    return (yield from get("v1", "datasets"))["unfinished"]


def _body(file: str | os.PathLike[str], progress: bool) -> Body:
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    body = Body(path, progress)
    if not body.size:
        raise ValueError(f"{path} is empty")
    return body


def check(job: Mapping[str, Any], webhooks: Names, constraints: Mapping[str, float]) -> Operation[Any]:
    """A dry run."""
    params = {"dry_run": "true", "webhook": names_of(webhooks), **constraints}
    return (yield from send(Call("POST", ("v1", "jobs"), params, json=job))).json()


def submit(
    job: Mapping[str, Any],
    webhooks: Names,
    constraints: Mapping[str, float],
    key: str | None,
    seen: dict[str, int],
) -> Operation[Any]:
    """Posts a job, and passes on the server's warnings."""
    call = Call("POST", ("v1", "jobs"), {"webhook": names_of(webhooks), **constraints}, json=job)
    created = yield from _post_once(call, key)
    yield from _warn(created["id"], seen)
    return created


def sweep(
    document: Mapping[str, Any],
    webhooks: Names,
    job_webhooks: Names,
    constraints: Mapping[str, float],
    key: str | None,
) -> Operation[Any]:
    """Posts a sweep, and warns of what the server doubts."""
    if names := names_of(webhooks):
        if "webhooks" in document:
            raise ValueError("the sweep names webhooks itself: add them there, or leave out the argument webhooks")
        document = {**document, "webhooks": names}
    call = Call("POST", ("v1", "sweeps"), {"webhook": names_of(job_webhooks), **constraints}, json=document)
    created = yield from _of_sweeps(_post_once(call, key))
    for doubt in created["warnings"]:
        warnings.warn(f"{created['id']}: {doubt}", JobWarning, stacklevel=2)
    return created


def check_sweep(document: Mapping[str, Any], constraints: Mapping[str, float]) -> Operation[Any]:
    """A dry run."""
    call = Call("POST", ("v1", "sweeps"), {"dry_run": "true", **constraints}, json=document)
    return (yield from _of_sweeps(send(call))).json()


def _of_sweeps(operation: Operation[T]) -> Operation[T]:
    """An operation that older servers refuse."""
    try:
        return (yield from operation)
    except Refused as error:
        if error.status in (404, 405):
            detail = "this server has no sweeps: use a newer one, or submit the jobs one by one"
            raise DistilleryError(detail) from error
        raise


def sweeps(limit: int) -> Operation[list[Any]]:
    """The newest sweeps."""
    return (yield from _pages(("v1", "sweeps"), limit, {}))


def change_sweep(sweep: Mapping[str, Any] | str, verb: str) -> Operation[Any]:
    """Asks for a sweep to be cancelled, paused or resumed."""
    return (yield from send(Call("POST", ("v1", "sweeps", id_of(sweep), verb)))).json()


def sweep_results(sweep: Mapping[str, Any] | str) -> Operation[str]:
    """A sweep's combinations as CSV."""
    return (yield from send(Call("GET", ("v1", "sweeps", id_of(sweep)), {"format": "csv"}))).text


def _post_once(call: Call, key: str | None) -> Operation[Any]:
    """Posts what must exist only once, however often it is sent."""
    key = key or uuid.uuid4().hex
    call.headers = {"idempotency-key": key}
    try:
        return (yield from send(call)).json()
    except Unreachable as error:
        # The server may have it, with only the answer lost.
        raise Unreachable(f"{error} Posting it again with idempotency_key={key!r} creates no second one") from error


def jobs(statuses: Names, labels: Mapping[str, str], limit: int) -> Operation[list[Any]]:
    """The newest jobs."""
    return (yield from _pages(("v1", "jobs"), limit, {"status": names_of(statuses), "label": _labels(labels)}))


def _labels(labels: Mapping[str, str]) -> list[str]:
    return [f"{key}:{value}" for key, value in labels.items()]


def _pages(path: tuple[str, ...], limit: int, params: Mapping[str, Any]) -> Operation[list[Any]]:
    """The first entries of a list."""
    found: list[Any] = []
    after = None
    while len(found) < limit:
        page = yield from get(*path, limit=min(_PAGE, limit - len(found)), after=after, **params)
        found += page["data"]
        if not page["has_more"]:
            break
        after = page["next"]
    return found


def edit(job: Mapping[str, Any] | str, changes: Mapping[str, Any]) -> Operation[Any]:
    """Changes a job's name, labels, priority or notes."""
    return (yield from send(Call("PATCH", ("v1", "jobs", id_of(job)), json=changes))).json()


def groups(
    by: Names, labels: Mapping[str, str], sweep: Mapping[str, Any] | str | None, words: str | None, limit: int
) -> Operation[Any]:
    """Succeeded jobs, pooled by what they have in common."""
    given = {"by": names_of(by), "label": _labels(labels), "q": words}
    return (yield from get("v1", "groups", sweep=None if sweep is None else id_of(sweep), limit=limit, **given))


def pareto(
    constraints: Mapping[str, float], labels: Mapping[str, str], dataset: str | None,
    sweep: Mapping[str, Any] | str | None, limit: int,
) -> Operation[Any]:
    """Finished students with what they cost."""
    chosen = {"label": _labels(labels), "dataset": dataset, "sweep": None if sweep is None else id_of(sweep)}
    return (yield from get("v1", "pareto", limit=limit, **chosen, **constraints))


def events(job: str, after: int) -> Operation[list[Any]]:
    """A job's history after an entry."""
    found: list[Any] = []
    while True:
        page = yield from get("v1", "jobs", job, "events", after=after, limit=1000)
        found += page["data"]
        if not page["has_more"]:
            return found
        after = found[-1]["seq"]


def wait(
    job: str, show: Callable[[Any], None], timeout: float | None, seen: dict[str, int]
) -> Operation[Any]:
    """Follows a job until it has ended."""

    def look() -> Operation[Any]:
        # The job first: once it has ended, nothing is added to its history.
        current = yield from get("v1", "jobs", job)
        yield from _warn(job, seen)
        show(current)
        if current["status"] in ENDED and current["status"] != "succeeded":
            raise (JobCancelled if current["status"] == "cancelled" else JobFailed)(current)
        return current if current["status"] == "succeeded" else None

    return (yield from _follow(look, timeout, f"job {job}"))


def wait_for_sweep(sweep: str, show: Callable[[Any], None], timeout: float | None) -> Operation[Any]:
    """Follows a sweep until all of its jobs have ended."""

    def look() -> Operation[Any]:
        current = yield from get("v1", "sweeps", sweep)
        show(current)
        if current["status"] == "cancelled" and not any(status not in ENDED for status in current["jobs"]):
            raise SweepCancelled(current)
        return current if current["status"] == "finished" else None

    ended = yield from _follow(look, timeout, f"sweep {sweep}")
    if failed := ended["jobs"].get("failed"):
        message = f"{sweep}: {failed} of its {sum(ended['jobs'].values())} jobs failed and do not count in its results"
        if first := ended.get("first_failure"):
            message += f". The first, {first['id']}: {first['error']['message']}"
        warnings.warn(message, JobWarning, stacklevel=2)
    return ended


def _follow(look: Callable[[], Operation[Any]], timeout: float | None, what: str) -> Operation[Any]:
    """Looks until there is something to return. What is looked at goes on without a connection, and so does this."""
    started = time.monotonic()
    heard = started
    while True:
        try:
            ended = yield from look()
        except Unreachable:
            if time.monotonic() - heard > _RECONNECT:
                raise
        else:
            heard = time.monotonic()
            if ended is not None:
                return ended
        if timeout is not None and time.monotonic() - started > timeout:
            raise TimeoutError(f"{what} has not ended within {timeout:g} s; it goes on")
        yield Sleep(_POLL)


def _warn(job: str, seen: dict[str, int]) -> Operation[None]:
    """Passes on the new warnings in a job's history."""
    for event in (yield from events(job, seen.get(job, 0))):
        seen[job] = event["seq"]
        if event["kind"] == "warning":
            warnings.warn(f"{job}: {event['message']}", JobWarning, stacklevel=2)


def prediction_report(job: str) -> Operation[Any]:
    """What the student gets wrong, counted."""
    return (yield from get("v1", "jobs", job, "predictions", "summary"))


def predictions(job: str, limit: int, **filters: Any) -> Operation[Predictions]:
    """The images of the filters about which the student is most wrong."""
    found: list[Any] = []
    after = None
    while True:
        # At least one, because the first page says how many there are.
        most = max(1, min(_PAGE, limit - len(found)))
        page = yield from get("v1", "jobs", job, "predictions", limit=most, after=after, **filters)
        found += page["data"]
        if not page["has_more"] or len(found) >= limit:
            return Predictions(found[: max(0, limit)], page)
        after = page["next"]


def series(job: str, names: Names, max_points: int | None) -> Operation[list[Any]]:
    """A job's series. Warns of names that it has no series of."""
    wanted = names_of(names)
    path = ("v1", "jobs", job, "metrics")
    found = (yield from get(*path, name=wanted, max_points=max_points))["series"]
    missing = sorted(set(wanted) - {one["name"] for one in found})
    if missing:
        # The fewest points that can be asked for: only the names matter.
        known = [one["name"] for one in (yield from get(*path, max_points=4))["series"]]
        has = f"it has {', '.join(known[:_LISTED])}" if known else "it has none yet"
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        for name in missing:
            near = difflib.get_close_matches(name, known, 1)
            meant = f", did you mean {near[0]}?" if near else ""
            warnings.warn(f"{job} has no series {name}{meant}; {has}{more}", JobWarning, stacklevel=2)
    return found
