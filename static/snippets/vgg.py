from torch import nn

# Convolutions per block.
NETWORKS = {
    "vgg8": [1, 1, 1, 1, 1],
    "vgg11": [1, 1, 2, 2, 2],
    "vgg13": [2, 2, 2, 2, 2],
    "vgg16": [2, 2, 3, 3, 3],
    "vgg19": [2, 2, 4, 4, 4],
}


class Vgg(nn.Module):
    """VGG with batch norm and one linear layer. There is no pooling between the last two blocks."""

    def __init__(self, convolutions, num_classes):
        super().__init__()
        inputs = 3
        for block, (count, outputs) in enumerate(zip(convolutions, [64, 128, 256, 512, 512])):
            layers = []
            for _ in range(count):
                layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            setattr(self, f"block{block}", nn.Sequential(*layers))
        self.pool = nn.MaxPool2d(2, 2)
        self.classifier = nn.Linear(inputs, num_classes)

    def features(self, x):
        x = self.block0(x)
        x = self.block1(self.pool(x))
        x = self.block2(self.pool(x))
        return self.block4(self.block3(self.pool(x)))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def build(name, num_classes):
    return Vgg(NETWORKS[name], num_classes)
