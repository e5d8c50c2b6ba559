"""As much of torch as it takes to see which names and shapes a network has, and whether a file holds them."""

from . import nn  # noqa: F401


class Tensor:
    def __init__(self, *shape):
        self.shape = shape

    def view(self, *shape):
        return Tensor(*shape)

    def __sub__(self, other):
        return self

    __truediv__ = __sub__


def tensor(values):
    return Tensor(len(values))


def zeros(*shape):
    return Tensor(*shape)
