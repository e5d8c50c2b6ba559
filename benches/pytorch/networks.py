"""The networks of the compared pairs, written as PyTorch code usually is. Their state dicts have the project's keys."""

import re

import torch
import torch.nn.functional as F
from torch import nn


def conv3x3(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    def __init__(self, depth, wide, classes):
        super().__init__()
        widths = [32, 64, 128, 256] if wide else [16, 16, 32, 64]
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, width in enumerate(widths[1:]):
            blocks = []
            for block in range((depth - 2) // 6):
                blocks.append(BasicBlock(inputs, width, 2 if stage > 0 and block == 0 else 1))
                inputs = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def classify(self, x):
        return self.fc(x)


class Vgg(nn.Module):
    def __init__(self, convolutions, classes):
        super().__init__()
        inputs = 3
        for block, (count, channels) in enumerate(zip(convolutions, [64, 128, 256, 512, 512])):
            layers = []
            for _ in range(count):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
                inputs = channels
            setattr(self, f"block{block}", nn.Sequential(*layers))
        self.pool = nn.MaxPool2d(2, 2)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.block0(x)
        x = self.block1(self.pool(x))
        x = self.block2(self.pool(x))
        return self.block4(self.block3(self.pool(x)))

    def classify(self, x):
        return self.classifier(x)


def shuffle(x, groups):
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return x.permute(0, 2, 1, 3, 4).reshape(batch, channels, height, width)


class Bottleneck(nn.Module):
    def __init__(self, inputs, outputs, stride, groups):
        super().__init__()
        middle = outputs // 4
        self.stride = stride
        self.groups = 1 if inputs == 24 else groups
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.stride == 2:
            return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1))
        return F.relu(y + x)


class ShuffleNetV1(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        inputs = 24
        for stage, (outputs, count) in enumerate([(240, 4), (480, 8), (960, 4)]):
            blocks = []
            for block in range(count):
                kept = inputs if block == 0 else 0
                blocks.append(Bottleneck(inputs, outputs - kept, 2 if block == 0 else 1, 3))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(960, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def classify(self, x):
        return self.linear(x)


VGG = {"vgg8": [1] * 5, "vgg11": [1, 1, 2, 2, 2], "vgg13": [2] * 5}


def build(name, classes):
    """The network of that name."""
    if name in VGG:
        return Vgg(VGG[name], classes)
    if name == "shufflenet_v1":
        return ShuffleNetV1(classes)
    parts = re.fullmatch(r"resnet(\d+)(x4)?", name)
    if parts and (int(parts[1]) - 2) % 6 == 0:
        return CifarResNet(int(parts[1]), bool(parts[2]), classes)
    raise SystemExit(f"there is no {name} here: add it to {__file__}")
