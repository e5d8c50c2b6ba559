"""What is sent as a data set: a file, or a directory as a tar that is written nowhere. Any part of it can be read, so
that an upload can go on in the middle."""

from __future__ import annotations

import bisect
import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from .errors import DistilleryError

# Bytes that are read of a file at a time.
_PIECE = 1 << 18
# What archivers and systems leave, which the server passes over like hidden files.
_DEBRIS = {"__MACOSX", "$RECYCLE.BIN"}
# Most links and special files that an error names.
_NAMED = 20


class FileSource:
    """A file as it is."""

    def __init__(self, path: Path) -> None:
        self._file = _Content.of(path)
        self.path, self.size = path, self._file.size
        self.identity = self._file.state
        #: What is not sent.
        self.notes: list[str] = []

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`."""
        return self._file.read(start, end)


@dataclass
class _Content:
    """A file that must stay as it was."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> _Content:
        about = path.stat()
        return cls(path, about.st_size, about.st_mtime_ns)

    @property
    def state(self) -> str:
        return f"{self.size} {self.modified}"

    def read(self, start: int, end: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            about = os.fstat(file.fileno())
            file.seek(start)
            left = end - start if (about.st_size, about.st_mtime_ns) == (self.size, self.modified) else -1
            while left > 0 and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece
        if left:
            raise DistilleryError(f"{self.path} has changed since the upload began: upload it again")


@dataclass
class _Entry:
    """A file or an empty directory, and where it is in the tar."""

    name: str
    content: _Content | None
    start: int = 0

    def head(self) -> bytes:
        info = tarfile.TarInfo(self.name)
        info.mode = 0o644
        if self.content is None:
            info.type, info.mode = tarfile.DIRTYPE, 0o755
        else:
            info.size = self.content.size
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")

    def parts(self) -> Iterator[tuple[int, Union[bytes, _Content]]]:
        """What it consists of in the tar, with the lengths."""
        head = self.head()
        yield len(head), head
        if self.content is not None:
            yield self.content.size, self.content
            padding = -self.content.size % tarfile.BLOCKSIZE
            yield padding, bytes(padding)


class DirectorySource:
    """A directory as a tar. Hidden entries, and what archivers leave, are not in it."""

    def __init__(self, root: Path) -> None:
        self.path = root
        self._entries: list[_Entry] = []
        self._hidden: list[str] = []
        self._others: list[str] = []
        self._add("")
        if self._others:
            named = "\n".join(f"  {name}" for name in self._others[:_NAMED])
            more = f"\n  and {len(self._others) - _NAMED} more" if len(self._others) > _NAMED else ""
            raise ValueError(
                f"{root} has links or special files, which the server takes none of: put copies in their places\n"
                f"{named}{more}"
            )
        if all(entry.content is None for entry in self._entries):
            raise ValueError(f"{root} has no file")
        end = 0
        for entry in self._entries:
            entry.start = end
            end += sum(length for length, _ in entry.parts())
        self._end = end
        self.size = end + 2 * tarfile.BLOCKSIZE
        self._starts = [entry.start for entry in self._entries]
        states = (f"{entry.name}\0{entry.content.state if entry.content else ''}\n" for entry in self._entries)
        self.identity = hashlib.sha256("".join(states).encode("utf-8", "surrogateescape")).hexdigest()
        count = len(self._hidden)
        entries = "1 entry" if count == 1 else f"{count} entries"
        #: What is not sent.
        self.notes = [f"left out: {entries}, hidden or made by an archiver, such as {self._hidden[0]}"] if count else []

    def _add(self, below: str) -> None:
        before = len(self._entries)
        with os.scandir(self.path / below) as found:
            children = sorted(found, key=lambda child: child.name)
        for child in children:
            name = f"{below}/{child.name}" if below else child.name
            if child.name.startswith(".") or child.name in _DEBRIS:
                self._hidden.append(name)
            elif child.is_dir(follow_symlinks=False):
                self._add(name)
            elif child.is_file(follow_symlinks=False):
                self._entries.append(_Entry(name, _Content.of(Path(child.path))))
            else:
                self._others.append(name)
        if below and len(self._entries) == before:
            self._entries.append(_Entry(below, None))

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of the tar from `start` to `end`."""
        for entry in self._entries[max(0, bisect.bisect_right(self._starts, start) - 1):]:
            at = entry.start
            for length, part in entry.parts():
                first, last = max(start - at, 0), min(end - at, length)
                if first < last:
                    if isinstance(part, bytes):
                        yield part[first:last]
                    else:
                        yield from part.read(first, last)
                at += length
            if at >= end:
                return
        first = max(start, self._end)
        if first < end:
            yield bytes(end - first)


Packed = Union[FileSource, DirectorySource]


def source_of(file: str | os.PathLike[str]) -> Packed:
    """A file or a directory to send."""
    path = Path(file)
    if path.is_dir():
        return DirectorySource(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or directory {path}")
    source = FileSource(path)
    if not source.size:
        raise ValueError(f"{path} is empty")
    return source
