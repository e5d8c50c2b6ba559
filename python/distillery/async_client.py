"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import httpx

from . import _connection, _download, _frames, _operations
from ._operations import id_of
from ._progress import JobBar, SweepBar
from ._source import Bounds, Document, Images, JobOrId, Names, Path, Paths, Source, as_file, name_of
from ._steps import Call, Content, Fetch, Operation, T
from .predictions import Predictions
from .student import Student

if TYPE_CHECKING:
    import pandas

    from . import types

# How long the server may take to read and store a file once it has all of it, in seconds.
_STORE_PATIENCE = 1800.0


class AsyncClient:
    """`Client` for programs with an event loop: the same methods as coroutines. `Client` describes them.

    Args:
        url: the server's address; by default that of `DISTILLERY_URL`, or `http://127.0.0.1:8080`.
        token: by default that of the file `DISTILLERY_TOKEN_FILE`, of `DISTILLERY_TOKEN`, or of the file
            `distillery/token` in the user's configuration, as for the commands.
        timeout: longest silence of the server, in seconds.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 60.0) -> None:
        self._http = httpx.AsyncClient(**_connection.settings(url, token, timeout))
        self._timeout = timeout
        # The last entry of each job's history that was looked at for warnings.
        self._seen: dict[str, int] = {}

    async def upload(
        self, source: Source, *, images: Images = None, name: str | None = None, architecture: str | None = None,
        num_classes: int | None = None, state_dict: str | None = None, progress: bool = True,
    ) -> types.Checkpoint:
        with as_file(source, images) as file:
            given = {"name": name or name_of(source), "architecture": architecture, "num_classes": num_classes}
            return await self._run(_operations.upload(file, {**given, "state_dict": state_dict}, progress))

    async def upload_dataset(
        self, name: str, file: Paths, *, split: str | None = None, progress: bool = True,
    ) -> dict[str, Any]:
        return await self._run(_operations.upload_dataset(name, file, split, progress))

    async def check(
        self, job: Document, *, constraints: Bounds = None, webhooks: Names = (),
    ) -> types.DryRun:
        return await self._run(_operations.check(job, webhooks, constraints or {}))

    async def submit(
        self, job: Document, *, constraints: Bounds = None, webhooks: Names = (),
        idempotency_key: str | None = None,
    ) -> types.Job:
        operation = _operations.submit(job, webhooks, constraints or {}, idempotency_key, self._seen)
        return await self._run(operation)

    async def pareto(
        self, constraints: Bounds = None, *, labels: Mapping[str, str] | None = None, dataset: str | None = None,
        sweep: Document | str | None = None, limit: int = 1000,
    ) -> pandas.DataFrame:
        operation = _operations.pareto(constraints or {}, labels or {}, dataset, sweep, limit)
        return _frames.of_students(await self._run(operation))

    async def job(self, job: JobOrId) -> types.JobDetails:
        return await self._run(_operations.get("v1", "jobs", id_of(job)))

    async def jobs(
        self, *, status: Names = (), labels: Mapping[str, str] | None = None, limit: int = 20,
    ) -> list[types.Job]:
        return await self._run(_operations.jobs(status, labels or {}, limit))

    async def wait(self, job: JobOrId, *, progress: bool = True, timeout: float | None = None) -> types.JobDetails:
        bar = JobBar(progress)
        try:
            return await self._run(_operations.wait(id_of(job), bar.show, timeout, self._seen))
        finally:
            bar.close()

    async def cancel(self, job: JobOrId) -> types.Job:
        return await self._run(_operations.change(job, "cancel"))

    async def pause(self, job: JobOrId) -> types.Job:
        return await self._run(_operations.change(job, "pause"))

    async def resume(self, job: JobOrId) -> types.Job:
        return await self._run(_operations.change(job, "resume"))

    async def retry(self, job: JobOrId) -> types.Job:
        return await self._run(_operations.change(job, "retry"))

    async def edit(self, job: JobOrId, changes: Document) -> types.Job:
        return await self._run(_operations.edit(job, changes))

    async def delete(self, job: JobOrId) -> None:
        await self._run(_operations.delete("v1", "jobs", id_of(job)))

    async def events(self, job: JobOrId, *, after: int = 0) -> list[types.Event]:
        return await self._run(_operations.events(id_of(job), after))

    async def series(
        self, job: JobOrId, *, names: Names = (), max_points: int | None = None,
    ) -> list[types.Series]:
        return await self._run(_operations.series(id_of(job), names, max_points))

    async def metrics(
        self, job: JobOrId, *, names: Names = (), max_points: int | None = None, wide: bool = False,
    ) -> pandas.DataFrame:
        return _frames.of_series(await self._run(_operations.series(id_of(job), names, max_points)), wide)

    async def prediction_report(self, job: JobOrId) -> types.PredictionReport:
        return await self._run(_operations.prediction_report(id_of(job)))

    async def confusion(self, job: JobOrId, *, network: str = "student") -> pandas.DataFrame:
        return _frames.of_confusion(await self._run(_operations.prediction_report(id_of(job))), network)

    async def classes(self, job: JobOrId) -> pandas.DataFrame:
        return _frames.of_classes(await self._run(_operations.prediction_report(id_of(job))))

    async def predictions(
        self, job: JobOrId, *, outcome: types.PredictionOutcome | None = None, label: str | int | None = None,
        predicted: str | int | None = None, teacher_predicted: str | int | None = None, pictured: bool = False,
        limit: int = 48,
    ) -> Predictions:
        filters = {
            "outcome": outcome, "label": label, "predicted": predicted, "teacher_predicted": teacher_predicted,
            "pictured": "true" if pictured else None,
        }
        return await self._run(_operations.predictions(id_of(job), limit, **filters))

    async def student(
        self, job: JobOrId, *, which: str = "best", format: str = "safetensors", preprocess: bool = False,
        to: Path | None = None, overwrite: bool = False, progress: bool = True,
    ) -> Student:
        params = {"which": which, "format": format, **({"preprocess": "true"} if preprocess else {})}
        path = ("v1", "jobs", id_of(job), "student")
        return Student(await self._run(_download.download(path, params, to, overwrite, progress)))

    async def artifacts(self, job: JobOrId) -> list[types.Artifact]:
        return await self._run(_operations.get_list("v1", "jobs", id_of(job), "artifacts"))

    async def artifact(
        self, job: JobOrId, name: str, *, to: Path | None = None, overwrite: bool = False, progress: bool = True,
    ) -> pathlib.Path:
        path = ("v1", "jobs", id_of(job), "artifacts", name)
        return await self._run(_download.download(path, {}, to, overwrite, progress))

    async def tensorboard(self, job: JobOrId, *, to: Path = "runs") -> pathlib.Path:
        directory = pathlib.Path(to, id_of(job))
        directory.mkdir(parents=True, exist_ok=True)
        path = ("v1", "jobs", id_of(job), "tensorboard")
        return await self._run(_download.download(path, {}, directory, True, False))

    async def check_sweep(self, sweep: Document, *, constraints: Bounds = None) -> types.SweepDryRun:
        return await self._run(_operations.check_sweep(sweep, constraints or {}))

    async def sweep(
        self, sweep: Document, *, constraints: Bounds = None, webhooks: Names = (),
        job_webhooks: Names = (), idempotency_key: str | None = None,
    ) -> types.SweepDetails:
        return await self._run(_operations.sweep(sweep, webhooks, job_webhooks, constraints or {}, idempotency_key))

    async def sweeps(self, *, limit: int = 20) -> list[types.Sweep]:
        return await self._run(_operations.sweeps(limit))

    async def sweep_details(self, sweep: Document | str) -> types.SweepDetails:
        return await self._run(_operations.get("v1", "sweeps", id_of(sweep)))

    async def sweep_results(self, sweep: Document | str) -> pandas.DataFrame:
        return _frames.of_csv(await self._run(_operations.sweep_results(sweep)))

    async def wait_for_sweep(
        self, sweep: Document | str, *, progress: bool = True, timeout: float | None = None,
    ) -> types.SweepDetails:
        bar = SweepBar(progress)
        try:
            return await self._run(_operations.wait_for_sweep(id_of(sweep), bar.show, timeout))
        finally:
            bar.close()

    async def pause_sweep(self, sweep: Document | str) -> types.SweepDetails:
        return await self._run(_operations.change_sweep(sweep, "pause"))

    async def resume_sweep(self, sweep: Document | str) -> types.SweepDetails:
        return await self._run(_operations.change_sweep(sweep, "resume"))

    async def cancel_sweep(self, sweep: Document | str) -> types.SweepDetails:
        return await self._run(_operations.change_sweep(sweep, "cancel"))

    async def delete_sweep(self, sweep: Document | str) -> None:
        await self._run(_operations.delete("v1", "sweeps", id_of(sweep)))

    async def groups(
        self, by: Names = "method", *, labels: Mapping[str, str] | None = None,
        sweep: Document | str | None = None, words: str | None = None, limit: int = 500,
    ) -> pandas.DataFrame:
        return _frames.of_groups(await self._run(_operations.groups(by, labels or {}, sweep, words, limit)))

    async def checkpoints(self) -> list[types.Checkpoint]:
        return await self._run(_operations.get_list("v1", "checkpoints"))

    async def delete_checkpoint(self, checkpoint: Document | str) -> None:
        await self._run(_operations.delete("v1", "checkpoints", id_of(checkpoint)))

    async def datasets(self) -> list[types.Summary]:
        return await self._run(_operations.get_list("v1", "datasets"))

    async def unfinished_uploads(self) -> list[types.UnfinishedUpload]:
        return await self._run(_operations.unfinished_uploads())

    async def architectures(self) -> list[types.Architecture]:
        return await self._run(_operations.get_list("v1", "architectures"))

    async def workers(self) -> list[types.Worker]:
        return await self._run(_operations.get_list("v1", "workers"))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _run(self, operation: Operation[T]) -> T:
        """Carries out the steps of an operation."""
        result: Any = None
        failure: Exception | None = None
        while True:
            try:
                step = operation.send(result) if failure is None else operation.throw(failure)
            except StopIteration as end:
                return end.value
            result = failure = None
            try:
                if isinstance(step, Call):
                    result = await self._call(step)
                elif isinstance(step, Fetch):
                    result = await self._fetch(step)
                else:
                    await asyncio.sleep(step.seconds)
            except httpx.TransportError as error:
                failure = error

    async def _call(self, call: Call) -> httpx.Response:
        path, params = _connection.path_of(call.path), call.params
        if call.body is None:
            return await self._http.request(call.method, path, params=params, json=call.json, headers=call.headers)
        headers = {**call.headers, "content-length": str(call.body.size), "content-type": "application/octet-stream"}
        patience = httpx.Timeout(self._timeout, read=max(self._timeout, _STORE_PATIENCE))
        content = _async(call.body)
        options = {"content": content, "headers": headers, "timeout": patience}
        return await self._http.request(call.method, path, params=params, **options)

    async def _fetch(self, fetch: Fetch) -> httpx.Response:
        path = _connection.path_of(fetch.path)
        async with self._http.stream("GET", path, params=fetch.params, headers=fetch.headers) as response:
            if response.is_success:
                take = fetch.begin(response)
                async for piece in response.aiter_raw():
                    take(piece)
            else:
                await response.aread()
            return response


async def _async(body: Content) -> AsyncIterator[bytes]:
    for piece in body.pieces():
        yield piece
