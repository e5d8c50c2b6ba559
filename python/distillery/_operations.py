"""The operations of both clients."""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ._connection import send
from ._steps import Body, Call, Operation, Sleep
from .errors import Damaged, DistilleryError, JobCancelled, JobFailed, JobWarning, Refused, Unreachable
from .predictions import Predictions

_ENDED = ("succeeded", "failed", "cancelled")
# Seconds between two looks at a job that is waited for.
_POLL = 1.0
# How long a lost connection is tried again, in seconds.
_RECONNECT = 300.0
# Most jobs on a page of the list.
_PAGE = 100


def id_of(job: Mapping[str, Any] | str) -> str:
    """The id of something that is given by its document or its id."""
    return job if isinstance(job, str) else job["id"]


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
    """Sends a checkpoint. The same bytes are the same checkpoint, so that sending them again does no harm."""
    body = _body(file, progress)
    given = {"name": body.path.name, **{name: value for name, value in params.items() if value is not None}}
    checkpoint = (yield from send(Call("PUT", ("v1", "checkpoints"), given, body=body))).json()
    # One state dict of several, or a network without its stack traces, is stored as another file.
    if checkpoint["size_bytes"] == body.size and checkpoint["sha256"] != body.sha256:
        raise Damaged(
            f"the server stored other bytes than {file} has: something between here and it changed them. Delete "
            f"{checkpoint['id']}, and upload the file again"
        )
    return checkpoint


def upload_dataset(name: str, file: str | os.PathLike[str], progress: bool) -> Operation[Any]:
    """Sends a data set. The same files are the same version."""
    return (yield from send(Call("PUT", ("v1", "datasets", name), body=_body(file, progress)))).json()


def _body(file: str | os.PathLike[str], progress: bool) -> Body:
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    body = Body(path, progress)
    if not body.size:
        raise ValueError(f"{path} is empty")
    return body


def check(job: Mapping[str, Any], webhooks: Iterable[str], constraints: Mapping[str, float]) -> Operation[Any]:
    """A dry run."""
    params = {"dry_run": "true", "webhook": list(webhooks), **constraints}
    return (yield from send(Call("POST", ("v1", "jobs"), params, json=job))).json()


def submit(
    job: Mapping[str, Any],
    webhooks: Iterable[str],
    constraints: Mapping[str, float],
    key: str | None,
    seen: dict[str, int],
) -> Operation[Any]:
    """Posts a job, and warns of what the server doubts."""
    call = Call("POST", ("v1", "jobs"), {"webhook": list(webhooks), **constraints}, json=job)
    created = yield from _post_once(call, key)
    yield from _warn(created["id"], seen)
    return created


def sweep(document: Mapping[str, Any], key: str | None) -> Operation[Any]:
    """Posts a sweep."""
    try:
        return (yield from _post_once(Call("POST", ("v1", "sweeps"), json=document), key))
    except Refused as error:
        if error.status in (404, 405):
            detail = "this server has no sweeps: use a newer one, or submit the jobs one by one"
            raise DistilleryError(detail) from error
        raise


def sweep_results(sweep: Mapping[str, Any] | str) -> Operation[str]:
    """A sweep's combinations as CSV."""
    return (yield from send(Call("GET", ("v1", "sweeps", id_of(sweep)), {"format": "csv"}))).text


def _post_once(call: Call, key: str | None) -> Operation[Any]:
    """Posts what must exist once, however often it is sent."""
    key = key or uuid.uuid4().hex
    call.headers = {"idempotency-key": key}
    try:
        return (yield from send(call)).json()
    except Unreachable as error:
        # Perhaps the server has it, and only the answer was lost.
        raise Unreachable(f"{error} Posting it again with idempotency_key={key!r} creates no second one") from error


def jobs(statuses: Iterable[str], labels: Mapping[str, str], limit: int) -> Operation[list[Any]]:
    """The newest jobs."""
    found: list[Any] = []
    after = None
    while len(found) < limit:
        params = {"status": list(statuses), "label": [f"{key}:{value}" for key, value in labels.items()]}
        page = yield from get("v1", "jobs", limit=min(_PAGE, limit - len(found)), after=after, **params)
        found += page["data"]
        if not page["has_more"]:
            break
        after = page["next"]
    return found


def pareto(
    constraints: Mapping[str, float], labels: Mapping[str, str], dataset: str | None, limit: int
) -> Operation[Any]:
    """Finished students with what they cost."""
    label = [f"{key}:{value}" for key, value in labels.items()]
    return (yield from get("v1", "pareto", label=label, dataset=dataset, limit=limit, **constraints))


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
    started = time.monotonic()
    heard = started
    while True:
        try:
            # The job first: once it has ended, nothing is added to its history.
            current = yield from get("v1", "jobs", job)
            yield from _warn(job, seen)
        except Unreachable:
            # The job goes on without a connection, and so does the wait.
            if time.monotonic() - heard > _RECONNECT:
                raise
        else:
            heard = time.monotonic()
            show(current)
            if current["status"] == "succeeded":
                return current
            if current["status"] in _ENDED:
                raise (JobCancelled if current["status"] == "cancelled" else JobFailed)(current)
        if timeout is not None and time.monotonic() - started > timeout:
            raise TimeoutError(f"job {job} has not ended within {timeout:g} s; it goes on")
        yield Sleep(_POLL)


def _warn(job: str, seen: dict[str, int]) -> Operation[None]:
    """Warns of the new doubts in a job's history."""
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


def series(job: str, names: Iterable[str], max_points: int | None) -> Operation[list[Any]]:
    """A job's series."""
    return (yield from get("v1", "jobs", job, "metrics", name=list(names), max_points=max_points))["series"]
