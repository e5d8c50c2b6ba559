"""Exports your own networks to files that a server accepts."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def export(model: torch.nn.Module, images: Sequence[int] | torch.Tensor, path: str | os.PathLike[str]) -> None:
    """Writes a network with its weights to a `.pt2` file, as `torch.export` does.

    The network is exported in training mode, which students need and teachers may have. The model itself is left as it
    is: a copy on the CPU is exported.

    Args:
        images: shape of one image, such as `(3, 224, 224)`, or a tensor with a batch of at least two images
            `[B, C, H, W]`.
    """
    shape = _shape_of_image(images)
    import torch

    if shape is not None:
        images = torch.zeros(2, *shape)
    elif images.dim() != 4 or images.shape[0] < 2:
        raise ValueError(
            f"images is a tensor of shape {list(images.shape)}: expected a batch [B, C, H, W] of 2 images or more, or "
            "the shape of one image, such as (3, 224, 224)"
        )
    model = copy.deepcopy(model).cpu().train()
    batch = torch.export.Dim("batch", min=2, max=65536)
    program = torch.export.export(model, (images.cpu(),), dynamic_shapes=({0: batch},))
    torch.export.save(program, os.fspath(path))


def _shape_of_image(images: Sequence[int] | torch.Tensor) -> list[int] | None:
    """The shape `[C, H, W]`, if that is what is given and not a tensor."""
    if hasattr(images, "dim"):
        return None
    expected = "expected the shape of one image [C, H, W], such as (3, 224, 224)"
    try:
        shape = [operator.index(size) for size in images]
    except TypeError:
        kind = type(images).__name__
        raise ValueError(f"images is of type {kind}: {expected}, or a batch [B, C, H, W] as a torch tensor") from None
    if len(shape) == 4:
        raise ValueError(
            f"images is {tuple(shape)}, which has 4 sizes: {expected}, here {tuple(shape[1:])}. A batch [B, C, H, W] "
            "is given as a tensor"
        )
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"images is {tuple(shape)}: {expected}")
    return shape
