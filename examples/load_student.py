"""Loads a downloaded student into plain PyTorch and prints its accuracy on an IDX data set.

    python examples/load_student.py student.safetensors examples/data/digits

Needs torch, numpy and safetensors. The networks are in static/snippets, one file per family, for you to copy. Their
state-dict keys equal the checkpoint's, so `load_state_dict(strict=True)` accepts it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import networks  # makes static/snippets importable
from load import load


def read_idx(path):
    """Reads an IDX file into an array."""
    data = Path(path).read_bytes()
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def main():
    network, facts = load(sys.argv[1], networks.build)
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
