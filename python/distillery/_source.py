"""What a user may give: files, live modules, documents and ids."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Union

from .export import export

if TYPE_CHECKING:
    import torch

Path = Union[str, "os.PathLike[str]"]
# One file or directory, or several files.
Paths = Union[Path, Iterable[Path]]
Document = Mapping[str, Any]
JobOrId = Union[Document, str]
# One name, or several.
Names = Union[str, Iterable[str]]
Source = Union[Path, "torch.nn.Module"]
Bounds = Union[Mapping[str, float], None]
Images = Union[Sequence[int], "torch.Tensor", None]


@contextmanager
def as_file(source: Source, images: Images) -> Iterator[Path]:
    """A file, or the one that a module is exported to while it is used."""
    if isinstance(source, (str, os.PathLike)):
        if images is not None:
            raise TypeError("images: a file has its own size of images; only a module needs them")
        yield source
        return
    if images is None:
        raise TypeError("a module needs images: the shape of one image, such as images=(3, 224, 224)")
    with tempfile.TemporaryDirectory(prefix="distillery-") as directory:
        path = os.path.join(directory, f"{type(source).__name__}.pt2")
        export(source, images, path)
        yield path


def name_of(source: Source) -> str | None:
    """The name of a module for people. A file's name is found when it is sent."""
    return None if isinstance(source, (str, os.PathLike)) else type(source).__name__
