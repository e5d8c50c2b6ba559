"""Loads a downloaded student into plain PyTorch and prints its accuracy on an IDX data set.

    python examples/load_student.py student.safetensors examples/data/digits

Needs torch, numpy and safetensors. `CifarResNet` is the network of the CIFAR ResNets of this project; its keys are
those of the checkpoint, so that `load_state_dict(strict=True)` takes them as they are.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """resnet8 ... resnet110, resnet8x4 and resnet32x4 of the CIFAR distillation literature."""

    def __init__(self, name, num_classes):
        super().__init__()
        depth, wide = re.fullmatch(r"resnet(\d+)(x4)?", name).groups()
        widths = [32, 64, 128, 256] if wide else [16, 16, 32, 64]
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, (width, stride) in enumerate(zip(widths[1:], [1, 2, 2]), start=1):
            blocks = []
            for index in range((int(depth) - 2) // 6):
                blocks.append(Block(inputs, width, stride if index == 0 else 1))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def load(path):
    """The network of a downloaded student, and what its file says about it."""
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}
    network = CifarResNet(facts["architecture"], int(facts["num_classes"]))
    network.load_state_dict(state, strict=True)
    return network.eval(), facts


def read_idx(path):
    """An IDX file as an array."""
    data = Path(path).read_bytes()
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def main():
    network, facts = load(sys.argv[1])
    data = Path(sys.argv[2])
    images = torch.from_numpy(read_idx(data / "t10k-images-idx3-ubyte").copy()).float().unsqueeze(1)
    labels = torch.from_numpy(read_idx(data / "t10k-labels-idx1-ubyte").astype(np.int64))
    side = int(facts["image_size"])
    images = F.interpolate(images, (side, side), mode="bilinear", antialias=True).round().expand(-1, 3, -1, -1) / 255
    mean, std = (torch.tensor(json.loads(facts[key])).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        top1 = (network((images - mean) / std).argmax(1) == labels).float().mean()
    print(f"{facts['architecture']}: {100 * top1:.2f} % of {len(labels)} images")


if __name__ == "__main__":
    main()
