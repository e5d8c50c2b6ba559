"""Uploads of data sets in pieces, which go on where the server has got to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from ._connection import refusal, retry_after, send
from ._packed import Packed
from ._progress import file_bar
from ._steps import Call, Operation, Sleep
from .errors import DistilleryError, Refused, Unreachable

# Bytes of a piece.
PIECE = 32 << 20
# Most pieces of an upload that the server takes.
_MOST_PIECES = 10_000
# How long to try again without a piece that is stored, in seconds.
_RECONNECT = 300.0
# Pause before the first attempt to connect again, in seconds; each further one is twice as long.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
# Answers after which the same piece may be taken later.
_PASSING = (408, 429, 502, 503, 504)
# Most times that the server may refuse the place of a piece before one is stored.
_MOST_CONFLICTS = 5


class Part:
    """Consecutive bytes of what is sent, as the body of a request."""

    def __init__(self, source: Packed, start: int, end: int, bar: Any) -> None:
        self.size = end - start
        self._source, self._start, self._end, self._bar = source, start, end, bar

    def pieces(self) -> Iterator[bytes]:
        """The bytes, a few at a time. Starts over each time."""
        self._bar.n = self._start
        self._bar.refresh()
        for piece in self._source.read(self._start, self._end):
            yield piece
            self._bar.update(len(piece))


def send_in_pieces(
    name: str, source: Packed, progress: bool, place: Mapping[str, Any] | None = None,
) -> Operation[Any]:
    """Sends a data set from where an earlier call with the same files ended, and returns what the server made of it.
    With a place, it sends the shard that has this place in a split."""
    with file_bar(progress, source.size, source.path.name) as bar:
        return (yield from _Sending(name, source, bar, place or {}).run())


class _Sending:
    def __init__(self, name: str, source: Packed, bar: Any, place: Mapping[str, Any]) -> None:
        self._name, self._source, self._bar, self._place = name, source, bar, place
        self._piece = max(PIECE, -(-source.size // _MOST_PIECES))
        state = f"{source.path.name}\0{source.size} {source.identity} {self._piece}"
        # The same file in two places is two uploads.
        state += "".join(f"\0{key}={value}" for key, value in place.items())
        digest = hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()
        self._upload = f"python-{digest[:16]}"
        # Bytes that the server has.
        self._received = 0
        self._is_begun = False
        self._forget_failures()

    def _forget_failures(self) -> None:
        self._lost: float | None = None
        self._pause = _FIRST_PAUSE
        self._conflicts = 0

    def run(self) -> Operation[Any]:
        """Sends all pieces."""
        size = self._source.size
        # If the server has all pieces, it did not put them together: the last one makes it do so.
        last = self._piece * ((size - 1) // self._piece)
        if last:
            self._received = yield from self._ask()
            self._is_begun = True
        start = min(self._received, last)
        while True:
            end = min(start + self._piece, size)
            response = None
            try:
                response = yield self._call(start, end)
            except httpx.TransportError as error:
                failure: DistilleryError = Unreachable(f"the upload was cut off: {error or type(error).__name__}.")
                if isinstance(error, httpx.ConnectError) and not self._is_begun:
                    raise failure from error
            else:
                if response.is_success:
                    if end == size:
                        return response.json()
                    start = self._received = end
                    self._is_begun = True
                    self._forget_failures()
                    continue
                failure = refusal(response)
            start = min((yield from self._recover(failure, response, start)), last)

    def _call(self, start: int, end: int) -> Call:
        headers = {"content-range": f"bytes {start}-{end - 1}/{self._source.size}"}
        body = Part(self._source, start, end, self._bar)
        params = {"upload": self._upload, **self._place}
        return Call("PUT", ("v1", "datasets", self._name), params, headers=headers, body=body)

    def _ask(self) -> Operation[int]:
        """Bytes that the server has."""
        try:
            found = yield from send(Call("GET", ("v1", "datasets", self._name, "uploads", self._upload)))
        except Refused as error:
            if error.status == 404:
                return 0
            raise
        return found.json()["received_bytes"]

    def _recover(self, failure: DistilleryError, response: httpx.Response | None, start: int) -> Operation[int]:
        """Waits after a failure for which another attempt may help, and returns where to continue."""
        status = None if response is None else response.status_code
        if status == 409:
            self._conflicts += 1
            if self._conflicts > _MOST_CONFLICTS:
                raise failure
        elif status is None or status in _PASSING:
            pause = self._pause if response is None else retry_after(response, self._pause)
            self._lost = time.monotonic() if self._lost is None else self._lost
            if time.monotonic() + pause > self._lost + _RECONNECT:
                there = f"{self._received} of {self._source.size} bytes are on the server for a day"
                raise Unreachable(f"{failure} {there}, and the same call continues after them") from failure
            yield Sleep(pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            raise failure
        try:
            received = yield from self._ask()
        except Unreachable:
            # The next piece finds that out, too.
            return start
        # Not the refusal of a piece that the server has, whose answer was lost.
        if status == 409 and received == start:
            raise failure
        self._received = received
        return received
