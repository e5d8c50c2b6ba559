"""What a client raises. Every error says what is wrong and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import types


class DistilleryError(Exception):
    """Any error of this package."""


class Unreachable(DistilleryError):
    """The server cannot be reached, or does not answer in time."""


class Refused(DistilleryError):
    """The server refused a request: a faulty job, an unknown id, a change that a job's status does not allow."""

    def __init__(self, status: int, detail: str, errors: Sequence[types.Fault] = ()) -> None:
        self.status = status
        self.detail = detail
        #: The faults of the request, each with the JSON pointer of its field.
        self.errors = list(errors)
        faults = [f"  {fault['pointer'] or '/'}: {fault['detail']}" for fault in self.errors]
        if len(self.errors) == 1 and all(self.errors[0][part] in detail for part in ("pointer", "detail")):
            faults = []
        super().__init__("\n".join([detail, *faults]))


class AccessDenied(Refused):
    """The token is missing, wrong or not sufficient."""


class JobFailed(DistilleryError):
    """The job that was waited for failed, or was cancelled."""

    def __init__(self, job: types.Job) -> None:
        #: The job as it ended.
        self.job = job
        error = job.get("error")
        reason = f"{job['status']}: {error['message']} ({error['class']})" if error else job["status"]
        super().__init__(f"job {job['id']} {reason}")


class JobCancelled(JobFailed):
    """The job that was waited for was cancelled."""


class SweepCancelled(DistilleryError):
    """The sweep that was waited for was cancelled."""

    def __init__(self, sweep: types.SweepDetails) -> None:
        #: The sweep as it is now.
        self.sweep = sweep
        super().__init__(f"sweep {sweep['id']} was cancelled")


class Damaged(DistilleryError):
    """The bytes received, or stored by the server, do not have the expected SHA-256. Nothing was kept."""


class JobWarning(UserWarning):
    """A warning of the server about a job."""


class UploadWarning(UserWarning):
    """A note of the server about an uploaded file: what it took it for, left out or renamed."""
