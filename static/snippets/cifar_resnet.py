import json
import re

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
