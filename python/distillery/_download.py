"""Downloads that continue where they were interrupted, and whose SHA-256 is checked."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from ._connection import refusal, retry_after
from ._progress import file_bar
from ._steps import Fetch, Operation, Sleep
from .errors import Damaged, DistilleryError, Unreachable

# Most times that a download is started or continued.
_TRIES = 5


def download(
    path: Sequence[str], params: Mapping[str, Any], to: str | os.PathLike[str] | None, overwrite: bool, progress: bool
) -> Operation[Path]:
    """Downloads a file, which gets its name only once it is complete.

    Args:
        to: a file, or a directory for the name that the server suggests; `None` is the working directory.
    """
    with _Target(Path(to) if to is not None else Path(), overwrite, progress) as target:
        pause = 1.0
        for left in reversed(range(_TRIES)):
            wait = pause
            try:
                response = yield Fetch(path, params, target.headers(), target.begin)
            except httpx.TransportError as error:
                if not left or isinstance(error, httpx.ConnectError):
                    raise Unreachable(f"the download was cut off: {error or type(error).__name__}") from error
            else:
                if response.is_success:
                    return target.finish()
                if response.status_code not in (429, 503) or not left:
                    raise refusal(response)
                wait = retry_after(response, pause)
            yield Sleep(wait)
            pause *= 2
    raise AssertionError("the last try returns or raises")


class _Target:
    """The file of a download. Until it is complete, it has another name."""

    def __init__(self, to: Path, overwrite: bool, progress: bool) -> None:
        self._to, self._overwrite, self._progress = to, overwrite, progress
        self._name, self._etag = "", ""
        directory = to if to.is_dir() else to.parent
        if not directory.is_dir():
            raise FileNotFoundError(f"there is no directory {directory}")
        self._part = tempfile.NamedTemporaryFile(prefix=".distillery-", suffix=".part", dir=directory, delete=False)
        self._bar = None

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._part.close()
        Path(self._part.name).unlink(missing_ok=True)

    def headers(self) -> dict[str, str]:
        """Asks for the rest of the same file, or for all of it."""
        have = self._part.tell()
        # As it is stored, since the SHA-256 is of that.
        plain = {"accept-encoding": "identity"}
        return {**plain, "range": f"bytes={have}-", "if-range": self._etag} if have and self._etag else plain

    def begin(self, response: httpx.Response) -> Callable[[bytes], object]:
        """Takes the head of an answer: the rest of the file, or the file from its start."""
        start = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        if response.status_code != 206 or not start or int(start[1]) != self._part.tell():
            self._part.seek(0)
            self._part.truncate()
            if response.status_code == 206:
                raise httpx.RemoteProtocolError("the server sent another part of the file than was asked for")
        self._etag = response.headers.get("etag", "")
        name = re.search(r'filename="([^"]+)"', response.headers.get("content-disposition", ""))
        self._name = Path(name[1]).name if name else "download"
        if self._bar is None:
            size = int(response.headers.get("content-length", 0)) or None
            self._bar = file_bar(self._progress, size, self._name)
        return self._take

    def _take(self, piece: bytes) -> None:
        self._part.write(piece)
        self._bar.update(len(piece))

    def finish(self) -> Path:
        """Gives the file its name, if its bytes have the SHA-256 that the server sent."""
        self._part.flush()
        sha256 = _sha256(Path(self._part.name))
        # Reports on exports are documents without one.
        if self._etag and sha256 != self._etag.strip('"'):
            raise Damaged(f"{self._name} came with the SHA-256 {sha256}, not {self._etag}: download it again")
        target = self._to / self._name if self._to.is_dir() else self._to
        if target.exists() and not self._overwrite:
            if target.is_file() and _sha256(target) == sha256:
                return target
            raise DistilleryError(f"{target} is there with other bytes: name another file, or pass overwrite=True")
        mode = 0o666 & ~_umask()
        os.chmod(self._part.name, mode)
        os.replace(self._part.name, target)
        return target


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _umask() -> int:
    """The process's umask."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o077
