"""Uploads of the shards of a split. Those that the server has already are not sent again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ._connection import send
from ._packed import FileSource, source_of
from ._pieces import send_in_pieces
from ._steps import Call, Operation
from .errors import DistilleryError, Refused


def send_shards(name: str, files: Iterable[str | os.PathLike[str]], split: str, progress: bool) -> Operation[Any]:
    """Sends the shards of a split in their order, and returns what the server made of them."""
    sources = [_shard(file) for file in files]
    if not sources:
        raise ValueError("there is no shard to send: name at least one file")
    waiting = (yield from _waiting(name, split, len(sources))) if len(sources) > 1 else {}
    left = [number for number, source in enumerate(sources) if not _is_there(waiting.get(number), source)]
    answer: Any = {}
    # Without another shard, the server would not put them together.
    for number in left or [len(sources) - 1]:
        place = {"split": split, "shard": number, "shards": len(sources)}
        try:
            answer = yield from send_in_pieces(name, sources[number], progress, place)
        except Refused as error:
            raise type(error)(error.status, f"{sources[number].path}: {error.detail}", error.errors) from error
    if "id" not in answer:
        raise DistilleryError(
            f"the server has not got all shards of {name}, because another upload replaces some of them "
            f"({answer.get('splits')}): call this again once that has ended"
        )
    return answer


def _shard(file: str | os.PathLike[str]) -> FileSource:
    source = source_of(file)
    if not isinstance(source, FileSource):
        raise ValueError(
            f"{file} is a directory, and split= takes single shards: leave split out to upload the whole directory, or "
            "name the files in it"
        )
    return source


def _waiting(name: str, split: str, shards: int) -> Operation[dict[int, Mapping[str, Any]]]:
    """The shards that wait on the server for others, out of as many as these, by their numbers."""
    try:
        found = (yield from send(Call("GET", ("v1", "datasets", name, "shards", split)))).json()
    except Refused as error:
        if error.status == 404:
            return {}
        raise
    return {shard["shard"]: shard for shard in found["data"]} if found["shards"] == shards else {}


def _is_there(known: Mapping[str, Any] | None, source: FileSource) -> bool:
    """Whether a shard waits on the server with the same bytes."""
    if known is None or known["size_bytes"] != source.size:
        return False
    digest = hashlib.sha256()
    for piece in source.read(0, source.size):
        digest.update(piece)
    return digest.hexdigest() == known["sha256"]
