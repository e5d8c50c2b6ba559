"""A downloaded student."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .errors import DistilleryError

if TYPE_CHECKING:
    import torch

Model = TypeVar("Model", bound="torch.nn.Module")


class Student:
    """A student's file. Only safetensors can be loaded here; the other formats have runtimes of their own."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        #: Where the file is.
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Student({str(self.path)!r})"

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata: `num_classes`, `mean`, `std`, `image_size`, for many `architecture` and
        `classes`. Lists are JSON."""
        from safetensors import safe_open

        with self._open(safe_open) as file:
            return dict(file.metadata() or {})

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes in the order of the logits; `None` if they have none."""
        text = self.metadata.get("classes")
        return json.loads(text) if text else None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights under the keys of PyTorch's state dict."""
        from safetensors import safe_open

        with self._open(safe_open) as file:
            return {key: file.get_tensor(key) for key in file.keys()}

    def load(self, model: Model, strict: bool = True) -> Model:
        """Loads the weights into a network, and returns it in evaluation mode."""
        model.load_state_dict(self.state_dict(), strict=strict)
        return model.eval()

    def _open(self, safe_open):
        if self.path.suffix != ".safetensors":
            raise DistilleryError(f"{self.path} is no safetensors file: download the student without a format")
        return safe_open(str(self.path), "pt")
