"""What an operation asks of the network, one step at a time.

Operations are generators of steps, written once: `Client` carries the steps out with `httpx.Client`, and `AsyncClient`
with `httpx.AsyncClient`. A step's result is sent back into the generator, and a broken connection is thrown into it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, Union

import httpx

from ._progress import file_bar

# Bytes that are read of a file at a time.
_PIECE = 1 << 18


class Content(Protocol):
    """The body of a request."""

    #: In bytes.
    size: int

    def pieces(self) -> Iterator[bytes]:
        """The bytes, a few at a time. Starts over each time."""


class Body:
    """A file to send, with its SHA-256 once it has been sent."""

    def __init__(self, path: Path, shown: bool) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.sha256 = ""
        self._shown = shown

    def pieces(self) -> Iterator[bytes]:
        """The file, a piece at a time. Starts over each time."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file, file_bar(self._shown, self.size, self.path.name) as bar:
            while piece := file.read(_PIECE):
                digest.update(piece)
                yield piece
                bar.update(len(piece))
        self.sha256 = digest.hexdigest()


@dataclass
class Call:
    """A request, whose result is the answer as a whole."""

    method: str
    #: Segments below the server's address.
    path: Sequence[str]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Content | None = None


@dataclass
class Fetch:
    """A download, whose result is the head of the answer, and the whole answer if it is a refusal."""

    path: Sequence[str]
    params: Mapping[str, Any]
    headers: Mapping[str, str]
    #: Gets the head of the answer, and returns the receiver of its pieces.
    begin: Callable[[httpx.Response], Callable[[bytes], None]]


@dataclass
class Sleep:
    """A pause."""

    seconds: float


Step = Union[Call, Fetch, Sleep]
T = TypeVar("T")
Operation = Generator[Step, Any, T]
