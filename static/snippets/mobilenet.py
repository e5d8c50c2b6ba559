from torch import nn

# Stages of version 2: expansion factor, output channels, blocks, stride for large images, stride for small images.
STAGES = [
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 2),
    (6, 64, 4, 2, 2),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 2, 2),
    (6, 320, 1, 1, 1),
]


def convolution(inputs, outputs, size, stride=1, groups=1, active=nn.ReLU):
    """A convolution with batch norm and an activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        active(inplace=True),
    )


class Inverted(nn.Module):
    """An inverted residual block. It adds its input if the shapes agree."""

    def __init__(self, conv, keeps_shape):
        super().__init__()
        self.conv = conv
        self.keeps_shape = keeps_shape

    def forward(self, x):
        return x + self.conv(x) if self.keeps_shape else self.conv(x)


class MobileNetV1(nn.Module):
    """Version 1, for large images."""

    def __init__(self, num_classes):
        super().__init__()
        layers = [convolution(3, 32, 3, 2)]
        inputs = 32
        for outputs, count, stride in [(64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2)]:
            for block in range(count):
                depthwise = convolution(inputs, inputs, 3, stride if block == 0 else 1, inputs)
                layers.append(nn.Sequential(*depthwise, *convolution(inputs, outputs, 1)))
                inputs = outputs
        self.model = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, num_classes)

    def features(self, x):
        return self.model(x)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


class MobileNetV2(nn.Module):
    """Version 2 for large images, with torchvision's names."""

    def __init__(self, num_classes):
        super().__init__()
        layers = [convolution(3, 32, 3, 2, active=nn.ReLU6)]
        inputs = 32
        for expand, outputs, count, stride, _ in STAGES:
            for block in range(count):
                hidden, step = inputs * expand, stride if block == 0 else 1
                conv = [convolution(inputs, hidden, 1, active=nn.ReLU6)] if expand > 1 else []
                conv += [convolution(hidden, hidden, 3, step, hidden, nn.ReLU6)]
                conv += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
                layers.append(Inverted(nn.Sequential(*conv), step == 1 and inputs == outputs))
                inputs = outputs
        self.features = nn.Sequential(*layers, convolution(inputs, 1280, 1, active=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class HalfMobileNetV2(nn.Module):
    """Version 2 at half width, for small images."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = convolution(3, 16, 3, 2)
        inputs, stages = 16, []
        for expand, outputs, count, _, stride in STAGES:
            blocks = []
            for block in range(count):
                hidden, step = inputs * expand, stride if block == 0 else 1
                conv = [*convolution(inputs, hidden, 1), *convolution(hidden, hidden, 3, step, hidden)]
                conv += [nn.Conv2d(hidden, outputs // 2, 1, bias=False), nn.BatchNorm2d(outputs // 2)]
                blocks.append(Inverted(nn.Sequential(*conv), step == 1 and inputs == outputs // 2))
                inputs = outputs // 2
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv2 = convolution(inputs, 1280, 1)
        self.classifier = nn.Sequential(nn.Linear(1280, num_classes))

    def features(self, x):
        return self.conv2(self.blocks(self.conv1(x)))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


NETWORKS = {"mobilenet_v1": MobileNetV1, "mobilenet_v2_224": MobileNetV2, "mobilenet_v2": HalfMobileNetV2}


def build(name, num_classes):
    return NETWORKS[name](num_classes)
