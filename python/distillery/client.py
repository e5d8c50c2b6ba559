"""The client of a server."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx

from . import _connection, _download, _frames, _operations
from ._operations import id_of
from ._progress import JobBar, SweepBar
from ._source import Bounds, Document, Images, JobOrId, Names, Path, Paths, Source, as_file, name_of
from ._steps import Call, Fetch, Operation, T
from .predictions import Predictions
from .student import Student

if TYPE_CHECKING:
    import pandas
    from . import types

# How long the server may take to read and store a file once it has all of it, in seconds.
_STORE_PATIENCE = 1800.0


class Client:
    """A client of a server. As a context manager it closes its connections.

    Jobs, checkpoints and so on are the API's documents as dictionaries, typed in `distillery.types`. Methods that take
    a job also take its id.

    Args:
        url: the server's address; by default that of `DISTILLERY_URL`, or `http://127.0.0.1:8080`.
        token: by default that of the file `DISTILLERY_TOKEN_FILE`, of `DISTILLERY_TOKEN`, or of the file
            `distillery/token` in the user's configuration, as for the commands.
        timeout: longest silence of the server, in seconds.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 60.0) -> None:
        self._http = httpx.Client(**_connection.settings(url, token, timeout))
        self._timeout = timeout
        # The last entry of each job's history that was looked at for warnings.
        self._seen: dict[str, int] = {}

    def upload(
        self, source: Source, *, images: Images = None, name: str | None = None, architecture: str | None = None,
        num_classes: int | None = None, state_dict: str | None = None, progress: bool = True,
    ) -> types.Checkpoint:
        """Uploads a teacher's or a student's weights, or a network of your own. What the server notes about the file,
        such as what it left out, becomes an `UploadWarning`.

        Args:
            source: a file (safetensors, `torch.save`, or `.pt2` of `torch.export`), or a live `nn.Module`, which is
                exported as in `distillery.export`.
            images: for a module, the shape of one image, such as `(3, 224, 224)`, or a batch `[B, C, H, W]` as a
                tensor.
            name: for people; by default that of the file or of the module's class.
            architecture, num_classes: what the file must fit.
            state_dict: the key of the network to store, if the file has several.
        """
        with as_file(source, images) as file:
            given = {"name": name or name_of(source), "architecture": architecture, "num_classes": num_classes}
            return self._run(_operations.upload(file, {**given, "state_dict": state_dict}, progress))

    def upload_dataset(
        self, name: str, file: Paths, *, split: str | None = None, progress: bool = True,
    ) -> dict[str, Any]:
        """Uploads a data set: a zip, a tar that may be compressed by gzip or zstd, or a directory, which is packed
        while it is sent. Jobs then name it. What is left out or noted by the server becomes an `UploadWarning`.

        With `split`, `file` is the shard of this split, or all of its shards in their order: parquet, or tars of
        WebDataset. They replace the split, and other splits stay. Shards that the server has are not sent again.

        It is sent in pieces. After a lost connection the call goes on where the server has got to, and so does the same
        call within a day.
        """
        return self._run(_operations.upload_dataset(name, file, split, progress))

    def check(self, job: Document, *, constraints: Bounds = None, webhooks: Names = ()) -> types.DryRun:
        """Checks a job, fills in its defaults and estimates its cost; posts nothing.

        Args:
            constraints: upper bounds for the student, such as `{"latency_ms": 5, "size_mb": 4}`. `qualification` says
                whether its untrained network can meet them.
        """
        return self._run(_operations.check(job, webhooks, constraints or {}))

    def submit(
        self, job: Document, *, constraints: Bounds = None, webhooks: Names = (), idempotency_key: str | None = None,
    ) -> types.Job:
        """Posts a job. Each warning of the server becomes a `JobWarning`.

        Args:
            constraints: as for `check`. A student that cannot meet them causes a warning.
            webhooks: names of the operator's webhooks that get a message when the job has ended.
            idempotency_key: posting again with the same key creates no second job.
        """
        return self._run(_operations.submit(job, webhooks, constraints or {}, idempotency_key, self._seen))

    def pareto(
        self, constraints: Bounds = None, *, labels: Mapping[str, str] | None = None, dataset: str | None = None,
        sweep: Document | str | None = None, limit: int = 1000,
    ) -> pandas.DataFrame:
        """The newest finished students as a data frame, the most accurate first: what they cost, whether they meet the
        constraints (`qualifies`), and which Pareto fronts they are on. Needs pandas."""
        students = self._run(_operations.pareto(constraints or {}, labels or {}, dataset, sweep, limit))
        return _frames.of_students(students)

    def job(self, job: JobOrId) -> types.JobDetails:
        """A job as it is now."""
        return self._run(_operations.get("v1", "jobs", id_of(job)))

    def jobs(self, *, status: Names = (), labels: Mapping[str, str] | None = None, limit: int = 20) -> list[types.Job]:
        """The newest jobs, of this status or these statuses, and with all of these labels."""
        return self._run(_operations.jobs(status, labels or {}, limit))

    def wait(self, job: JobOrId, *, progress: bool = True, timeout: float | None = None) -> types.JobDetails:
        """Follows a job until it has succeeded, with a progress bar; even if the server restarts.

        New warnings in its history become `JobWarning`.

        Raises:
            JobFailed: it failed; `JobCancelled` if it was cancelled.
            TimeoutError: it has not ended after `timeout` seconds. It goes on.
        """
        bar = JobBar(progress)
        try:
            return self._run(_operations.wait(id_of(job), bar.show, timeout, self._seen))
        finally:
            bar.close()

    def cancel(self, job: JobOrId) -> types.Job:
        """Cancels a job."""
        return self._run(_operations.change(job, "cancel"))

    def pause(self, job: JobOrId) -> types.Job:
        """Pauses a job: a running one writes a checkpoint and frees its device."""
        return self._run(_operations.change(job, "pause"))

    def resume(self, job: JobOrId) -> types.Job:
        """Resumes a paused job."""
        return self._run(_operations.change(job, "resume"))

    def retry(self, job: JobOrId) -> types.Job:
        """Retries a failed or cancelled job."""
        return self._run(_operations.change(job, "retry"))

    def edit(self, job: JobOrId, changes: Document) -> types.Job:
        """Changes a job's `name`, `labels` (null removes one), `priority` or `notes`: those that are given."""
        return self._run(_operations.edit(job, changes))

    def delete(self, job: JobOrId) -> None:
        """Deletes a finished job with its files."""
        self._run(_operations.delete("v1", "jobs", id_of(job)))

    def events(self, job: JobOrId, *, after: int = 0) -> list[types.Event]:
        """A job's history after the entry `after`: statuses, log lines, warnings."""
        return self._run(_operations.events(id_of(job), after))

    def series(self, job: JobOrId, *, names: Names = (), max_points: int | None = None) -> list[types.Series]:
        """A job's series as lists; all series if no names are given. A name that it has no series of causes a
        `JobWarning`, and one that no job can have is `Refused`. Longer ones are thinned to `max_points`, 2000 by
        default."""
        return self._run(_operations.series(id_of(job), names, max_points))

    def metrics(
        self, job: JobOrId, *, names: Names = (), max_points: int | None = None, wide: bool = False,
    ) -> pandas.DataFrame:
        """A job's series as a data frame with the columns name, step, epoch, time and value; or, if `wide`, with a row
        for each step and a column for each name. Needs pandas. Series are thinned as by `series`."""
        return _frames.of_series(self._run(_operations.series(id_of(job), names, max_points)), wide)

    def prediction_report(self, job: JobOrId) -> types.PredictionReport:
        """What the best student and its teacher get wrong on the evaluation split, counted: confusion matrices,
        accuracy and agreement by class, calibration. Needs no pandas."""
        return self._run(_operations.prediction_report(id_of(job)))

    def confusion(self, job: JobOrId, *, network: str = "student") -> pandas.DataFrame:
        """The confusion matrix of the best student, or of its `teacher`: numbers of evaluation images, with a row for
        each label and a column for each predicted class. Needs pandas."""
        return _frames.of_confusion(self._run(_operations.prediction_report(id_of(job))), network)

    def classes(self, job: JobOrId) -> pandas.DataFrame:
        """The classes as a data frame: how many images each has, which percentage of them each network recognises, how
        often they agree, and how often each predicts the class. Needs pandas."""
        return _frames.of_classes(self._run(_operations.prediction_report(id_of(job))))

    def predictions(
        self, job: JobOrId, *, outcome: types.PredictionOutcome | None = None, label: str | int | None = None,
        predicted: str | int | None = None, teacher_predicted: str | int | None = None, pictured: bool = False,
        limit: int = 48,
    ) -> Predictions:
        """Evaluation images with what the best student and its teacher predict, those first about which the student is
        most wrong. A notebook shows their pictures; `.frame()` is a data frame.

        Args:
            outcome: `right`, `student_wrong`, `teacher_wrong` or `both_wrong`.
            label, predicted, teacher_predicted: only images of this class, or for which the student or the teacher
                predicts it: its name, or else its number.
            pictured: only images with a picture, which at most 256 have.
        """
        filters = {
            "outcome": outcome, "label": label, "predicted": predicted, "teacher_predicted": teacher_predicted,
            "pictured": "true" if pictured else None,
        }
        return self._run(_operations.predictions(id_of(job), limit, **filters))

    def student(
        self, job: JobOrId, *, which: str = "best", format: str = "safetensors", preprocess: bool = False,
        to: Path | None = None, overwrite: bool = False, progress: bool = True,
    ) -> Student:
        """Downloads a job's student.

        Args:
            which: `best`, or `last`: the one after the last epoch.
            format: `safetensors`, which `Student.load` takes, `pt2`, `onnx`, `int8` or `bundle`.
            preprocess: ONNX: normalise images in the graph.
            to: a file or a directory; by default the working directory, under the server's name for it.
            overwrite: whether to replace an existing file with other bytes.
        """
        params = {"which": which, "format": format, **({"preprocess": "true"} if preprocess else {})}
        path = ("v1", "jobs", id_of(job), "student")
        return Student(self._run(_download.download(path, params, to, overwrite, progress)))

    def artifacts(self, job: JobOrId) -> list[types.Artifact]:
        """The files that a job has published."""
        return self._run(_operations.get_list("v1", "jobs", id_of(job), "artifacts"))

    def artifact(
        self, job: JobOrId, name: str, *, to: Path | None = None, overwrite: bool = False, progress: bool = True,
    ) -> pathlib.Path:
        """Downloads a file that a job has published, and returns where it is."""
        path = ("v1", "jobs", id_of(job), "artifacts", name)
        return self._run(_download.download(path, {}, to, overwrite, progress))

    def tensorboard(self, job: JobOrId, *, to: Path = "runs") -> pathlib.Path:
        """Downloads a job's metrics as an event file of TensorBoard, also while it runs, into a directory of its own
        below `to`: `tensorboard --logdir runs` shows it. Replaces an earlier file of the job."""
        directory = pathlib.Path(to, id_of(job))
        directory.mkdir(parents=True, exist_ok=True)
        path = ("v1", "jobs", id_of(job), "tensorboard")
        return self._run(_download.download(path, {}, directory, True, False))

    def check_sweep(self, sweep: Document, *, constraints: Bounds = None) -> types.SweepDryRun:
        """Checks every job of a sweep, and estimates memory and device hours; posts nothing.

        Args:
            constraints: as for `check`; each combination has a `qualification`.
        """
        return self._run(_operations.check_sweep(sweep, constraints or {}))

    def sweep(
        self, sweep: Document, *, constraints: Bounds = None, webhooks: Names = (),
        job_webhooks: Names = (), idempotency_key: str | None = None,
    ) -> types.SweepDetails:
        """Posts a sweep: a set of jobs that differ in a few settings. What the server doubts about it becomes a
        `JobWarning`.

        Args:
            constraints: as for `check`. Students that cannot keep them are a doubt.
            webhooks: names of the operator's webhooks that get a message when the sweep has ended.
            job_webhooks: names of those that get one whenever a job of it has ended.
            idempotency_key: posting again with the same key creates no second sweep.
        """
        return self._run(_operations.sweep(sweep, webhooks, job_webhooks, constraints or {}, idempotency_key))

    def sweeps(self, *, limit: int = 20) -> list[types.Sweep]:
        """The newest sweeps, without their combinations."""
        return self._run(_operations.sweeps(limit))

    def sweep_details(self, sweep: Document | str) -> types.SweepDetails:
        """A sweep as it is now: its combinations, the best first, each with its jobs."""
        return self._run(_operations.get("v1", "sweeps", id_of(sweep)))

    def sweep_results(self, sweep: Document | str) -> pandas.DataFrame:
        """The combinations of a sweep as a data frame, as the server has them in CSV. Needs pandas."""
        return _frames.of_csv(self._run(_operations.sweep_results(sweep)))

    def wait_for_sweep(
        self, sweep: Document | str, *, progress: bool = True, timeout: float | None = None,
    ) -> types.SweepDetails:
        """Follows a sweep until all of its jobs have ended, with a progress bar; also across a restart of the server
        and while it is paused. If jobs failed, a `JobWarning` says how many, and why the first did.

        Raises:
            SweepCancelled: it was cancelled, and all of its jobs have ended.
            TimeoutError: it has not ended after `timeout` seconds. It goes on.
        """
        bar = SweepBar(progress)
        try:
            return self._run(_operations.wait_for_sweep(id_of(sweep), bar.show, timeout))
        finally:
            bar.close()

    def pause_sweep(self, sweep: Document | str) -> types.SweepDetails:
        """Pauses a sweep with all of its jobs."""
        return self._run(_operations.change_sweep(sweep, "pause"))

    def resume_sweep(self, sweep: Document | str) -> types.SweepDetails:
        """Resumes a paused sweep."""
        return self._run(_operations.change_sweep(sweep, "resume"))

    def cancel_sweep(self, sweep: Document | str) -> types.SweepDetails:
        """Cancels a sweep with all of its jobs that have not ended."""
        return self._run(_operations.change_sweep(sweep, "cancel"))

    def delete_sweep(self, sweep: Document | str) -> None:
        """Deletes a sweep that has ended, with its jobs and their files."""
        self._run(_operations.delete("v1", "sweeps", id_of(sweep)))

    def groups(
        self, by: Names = "method", *, labels: Mapping[str, str] | None = None,
        sweep: Document | str | None = None, words: str | None = None, limit: int = 500,
    ) -> pandas.DataFrame:
        """Which settings were best: succeeded jobs pooled over their seeds, as a data frame, the best group first.
        Needs pandas.

        Args:
            by: what the jobs of a group have in common: `method`, `teacher`, `student`, `dataset`, `sweep`,
                `label:KEY`, or the JSON pointer of a setting, such as `/distillation/temperature`; one or several.
            labels, sweep, words: only jobs with these labels, of this sweep, or that contain each of these words.
        """
        return _frames.of_groups(self._run(_operations.groups(by, labels or {}, sweep, words, limit)))

    def checkpoints(self) -> list[types.Checkpoint]:
        """The newest uploaded checkpoints."""
        return self._run(_operations.get_list("v1", "checkpoints"))

    def delete_checkpoint(self, checkpoint: Document | str) -> None:
        """Deletes a checkpoint that no job needs."""
        self._run(_operations.delete("v1", "checkpoints", id_of(checkpoint)))

    def datasets(self) -> list[types.Summary]:
        """The server's data sets."""
        return self._run(_operations.get_list("v1", "datasets"))

    def unfinished_uploads(self) -> list[types.UnfinishedUpload]:
        """What was uploaded and is no data set yet; `next` of each says how to continue, and how to give it up."""
        return self._run(_operations.unfinished_uploads())

    def architectures(self) -> list[types.Architecture]:
        """The networks that the server knows by name."""
        return self._run(_operations.get_list("v1", "architectures"))

    def workers(self) -> list[types.Worker]:
        """The workers, with their devices and jobs."""
        return self._run(_operations.get_list("v1", "workers"))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _run(self, operation: Operation[T]) -> T:
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
                    result = self._call(step)
                elif isinstance(step, Fetch):
                    result = self._fetch(step)
                else:
                    time.sleep(step.seconds)
            except httpx.TransportError as error:
                failure = error

    def _call(self, call: Call) -> httpx.Response:
        path, params = _connection.path_of(call.path), call.params
        if call.body is None:
            return self._http.request(call.method, path, params=params, json=call.json, headers=call.headers)
        headers = {**call.headers, "content-length": str(call.body.size), "content-type": "application/octet-stream"}
        patience = httpx.Timeout(self._timeout, read=max(self._timeout, _STORE_PATIENCE))
        content = call.body.pieces()
        options = {"content": content, "headers": headers, "timeout": patience}
        return self._http.request(call.method, path, params=params, **options)

    def _fetch(self, fetch: Fetch) -> httpx.Response:
        path = _connection.path_of(fetch.path)
        with self._http.stream("GET", path, params=fetch.params, headers=fetch.headers) as response:
            if response.is_success:
                take = fetch.begin(response)
                for piece in response.iter_raw():
                    take(piece)
            else:
                response.read()
            return response
