import torch
import torch.nn.functional as F
from torch import nn


def shuffle(x, groups):
    """Moves channel n of group g to n * groups + g."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.permute(0, 2, 1, 3, 4).reshape(batch, channels, height, width)


def pointwise(inputs, outputs, groups=1):
    return nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False)


def depthwise(channels, stride):
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)


class BlockV1(nn.Module):
    """A block that shrinks the map concatenates its pooled input; the others add their input."""

    def __init__(self, inputs, outputs, first):
        super().__init__()
        outputs = outputs - inputs if first else outputs
        middle = outputs // 4
        self.first = first
        # The stem has too few channels for groups.
        self.groups = 1 if inputs == 24 else 3
        self.conv1 = pointwise(inputs, middle, self.groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = depthwise(middle, 2 if first else 1)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = pointwise(middle, outputs, 3)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1) if self.first else y + x)


class DownV2(nn.Module):
    """Shrinks the map: both branches take the whole input."""

    def __init__(self, inputs, outputs):
        super().__init__()
        half = outputs // 2
        self.conv1 = depthwise(inputs, 2)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = pointwise(inputs, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = pointwise(inputs, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = depthwise(half, 2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = pointwise(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x):
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        right = F.relu(self.bn5(self.conv5(right)))
        return shuffle(torch.cat([left, right], 1), 2)


class BlockV2(nn.Module):
    """Half of the channels pass unchanged; the other half goes through convolutions."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.conv1 = pointwise(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = depthwise(half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = pointwise(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x):
        kept, y = x.chunk(2, 1)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(y)))))
        y = F.relu(self.bn3(self.conv3(y)))
        return shuffle(torch.cat([kept, y], 1), 2)


def block_v2(inputs, outputs, first):
    return DownV2(inputs, outputs) if first else BlockV2(outputs)


class ShuffleNet(nn.Module):
    """Both versions for small images, with a 1x1 stem. `last`: channels of the last convolution, in version 2."""

    def __init__(self, channels, block, last, num_classes):
        super().__init__()
        self.conv1 = pointwise(3, 24)
        self.bn1 = nn.BatchNorm2d(24)
        inputs = 24
        for stage, (outputs, count) in enumerate(zip(channels, [4, 8, 4])):
            blocks = [block(inputs, outputs, True)] + [block(outputs, outputs, False) for _ in range(count - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.conv2 = pointwise(inputs, last) if last else None
        self.bn2 = nn.BatchNorm2d(last) if last else None
        self.linear = nn.Linear(last or inputs, num_classes)

    def features(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return F.relu(self.bn2(self.conv2(x))) if self.conv2 else x

    def forward(self, x):
        return self.linear(self.features(x).mean((2, 3)))


NETWORKS = {
    "shufflenet_v1": ([240, 480, 960], BlockV1, None),
    "shufflenet_v2": ([116, 232, 464], block_v2, 1024),
}


def build(name, num_classes):
    return ShuffleNet(*NETWORKS[name], num_classes)
