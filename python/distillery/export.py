"""Exports your own networks to files that a server accepts."""

from __future__ import annotations

import copy
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
        images: shape of one image, such as `(3, 224, 224)`, or a batch of at least two images `[B, C, H, W]`.
    """
    import torch

    if not isinstance(images, torch.Tensor):
        images = torch.zeros(2, *images)
    if images.dim() != 4 or images.shape[0] < 2:
        shape = list(images.shape)
        raise ValueError(f"images: expected a shape [C, H, W], or a batch [B, C, H, W] of 2 or more, not {shape}")
    model = copy.deepcopy(model).cpu().train()
    batch = torch.export.Dim("batch", min=2, max=65536)
    program = torch.export.export(model, (images.cpu(),), dynamic_shapes=({0: batch},))
    torch.export.save(program, os.fspath(path))
