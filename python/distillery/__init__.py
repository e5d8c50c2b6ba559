"""The client of a distillery server, which distils image classifiers. The server and its trainer are in this wheel.

    with distillery.Client() as client:
        job = client.submit({"teacher": {…}, "student": {…}, "dataset": {…}})
        client.wait(job)
        model = client.student(job).load(model)
"""

from .async_client import AsyncClient
from .client import Client
from .errors import (
    AccessDenied,
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
from .export import export
from .predictions import Predictions, jpeg_of
from .student import Student

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Client",
    "Damaged",
    "DistilleryError",
    "JobCancelled",
    "JobFailed",
    "JobWarning",
    "Predictions",
    "Refused",
    "Student",
    "SweepCancelled",
    "Unreachable",
    "UploadWarning",
    "export",
    "jpeg_of",
]
