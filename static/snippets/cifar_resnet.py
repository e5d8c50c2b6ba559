import torch.nn.functional as F
from torch import nn

# Depth, channels of the stem, channels of the first stage, whether shortcuts are free of parameters.
NETWORKS = {f"resnet{depth}": (depth, 16, 16, False) for depth in (8, 14, 20, 32, 44, 56, 110)}
NETWORKS |= {f"resnet{depth}x4": (depth, 32, 64, False) for depth in (8, 32)}
NETWORKS |= {f"resnet{depth}_a": (depth, 16, 16, True) for depth in (20, 32, 44, 56, 110)}


class Pad(nn.Module):
    """A shortcut without parameters: takes every second pixel, and pads the channels with zeros on both sides."""

    def __init__(self, zeros):
        super().__init__()
        self.zeros = zeros // 2

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros))


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs, outputs, stride, padded):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs and padded:
            self.downsample = Pad(outputs - inputs)
        elif inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """ResNets for small images in the distillation literature. Those for CIFAR-10 (`_a`) name the classifier `linear`."""

    def __init__(self, depth, stem, width, padded, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = stem
        for stage in range(3):
            blocks = []
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(inputs, width << stage, stride, padded))
                inputs = width << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.classifier = "linear" if padded else "fc"
        setattr(self, self.classifier, nn.Linear(inputs, num_classes))

    def features(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward(self, x):
        return getattr(self, self.classifier)(self.features(x).mean((2, 3)))


def build(name, num_classes):
    return CifarResNet(*NETWORKS[name], num_classes)
