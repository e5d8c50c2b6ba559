"""Exports a network in training mode, all of whose random parts are at work, and prints what it computes in evaluation.

    .deps/pytorch_bench/run core/tests/it/export/dropping.py network.pt2
"""

import json
import sys

import torch
from torch import nn


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop_channels = nn.Dropout2d(0.4)
        self.queries = nn.Linear(8, 24)
        self.drop = nn.Dropout(0.3)
        self.classifier = nn.Linear(8, 5)

    def keep(self, branch):
        """Stochastic depth, as timm and torchvision write it."""
        if not self.training:
            return branch
        mask = branch.new_empty((branch.shape[0], 1, 1)).bernoulli_(0.8)
        mask.div_(0.8)
        return branch * mask

    def forward(self, images):
        maps = self.drop_channels(torch.relu(self.norm(self.conv(images))))
        tokens = maps.flatten(2).transpose(1, 2)
        queries, keys, values = self.queries(tokens).chunk(3, -1)
        dropped = 0.25 if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropped, scale=0.3)
        tokens = tokens + self.keep(attended)
        return self.classifier(self.drop(tokens.mean(1)))


def main():
    torch.manual_seed(1)
    network = Dropping()
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        for _ in range(5):
            network.train()(2 * torch.randn(16, 3, 8, 8) + 1)
        logits = network.eval()(images)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(network.train(), (images,), dynamic_shapes=({0: batch},))
    torch.export.save(program, sys.argv[1])
    json.dump({name: tensor.flatten().tolist() for name, tensor in [("images", images), ("logits", logits)]}, sys.stdout)


main()
