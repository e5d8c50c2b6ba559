import torch.nn.functional as F
from torch import nn

# Blocks per stage, whether they are bottlenecks, whether the images are small.
NETWORKS = {
    "resnet18": ([2, 2, 2, 2], False, False),
    "resnet34": ([3, 4, 6, 3], False, False),
    "resnet50": ([3, 4, 6, 3], True, False),
    "resnet101": ([3, 4, 23, 3], True, False),
    "resnet18_cifar": ([2, 2, 2, 2], False, True),
    "resnet50_cifar": ([3, 4, 6, 3], True, True),
}


class Block(nn.Module):
    """Two 3x3 convolutions, or the three of a bottleneck, and a shortcut with the given name."""

    def __init__(self, inputs, width, stride, bottleneck, shortcut):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        first, second = ((1, 1), (3, stride)) if bottleneck else ((3, stride), (3, 1))
        self.conv1 = nn.Conv2d(inputs, width, *first, first[0] // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, *second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut_name = None
        if stride != 1 or inputs != outputs:
            self.shortcut_name = shortcut
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            setattr(self, shortcut, nn.Sequential(projection, nn.BatchNorm2d(outputs)))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        shortcut = getattr(self, self.shortcut_name)(x) if self.shortcut_name else x
        return F.relu(y + shortcut)


class ResNet(nn.Module):
    """torchvision's ResNet; for small images with a 3x3 stem and the names of the distillation literature."""

    def __init__(self, counts, bottleneck, small, num_classes):
        super().__init__()
        self.small = small
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False) if small else nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, count in enumerate(counts):
            blocks = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(inputs, 64 << stage, stride, bottleneck, "shortcut" if small else "downsample"))
                inputs = (256 if bottleneck else 64) << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.classifier = "linear" if small else "fc"
        setattr(self, self.classifier, nn.Linear(inputs, num_classes))

    def features(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = F.max_pool2d(x, 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x):
        return getattr(self, self.classifier)(self.features(x).mean((2, 3)))


def build(name, num_classes):
    return ResNet(*NETWORKS[name], num_classes)
