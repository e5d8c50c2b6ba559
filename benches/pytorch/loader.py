#!/usr/bin/env python3
"""Measures how fast torch.utils.data.DataLoader reads pictures in a usual setup: worker processes, Pillow, torchvision.

    loader.py folder DIR/folder --crop 224 --workers 2      # ImageFolder, RandomResizedCrop, RandomHorizontalFlip
    loader.py parquet DIR/small --workers 2                 # the encoded images of parquet files in memory

Prints one line of JSON: images, seconds from the first batch to the last, and processor seconds in that time. Pictures
stay bytes (PILToTensor), which is less work than the usual ToTensor and Normalize. Needs torch, torchvision, pillow and
pyarrow (scripts/setup pytorch_bench).
"""

import argparse
import io
import json
import multiprocessing
import os
import pathlib
import time

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder


class Parquet(Dataset):
    def __init__(self, directory, transform):
        import pyarrow.parquet

        self.table = pyarrow.parquet.read_table(sorted(pathlib.Path(directory).glob("train-*.parquet")))
        self.labels = self.table.column("label").to_pylist()
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        encoded = self.table.column("image")[index].as_py()["bytes"]
        return self.transform(Image.open(io.BytesIO(encoded)).convert("RGB")), self.labels[index]


def processors():
    """The processor seconds of this process and its workers."""
    ticks = 0
    for process in ["self", *(worker.pid for worker in multiprocessing.active_children())]:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kind", choices=("folder", "parquet"))
    parser.add_argument("directory")
    parser.add_argument("--crop", type=int, help="crop and resize to this side; default: the picture as it is")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    crop = [transforms.RandomResizedCrop(options.crop), transforms.RandomHorizontalFlip()] if options.crop else []
    transform = transforms.Compose([*crop, transforms.PILToTensor()])
    if options.kind == "folder":
        data = ImageFolder(pathlib.Path(options.directory) / "train", transform)
    else:
        data = Parquet(options.directory, transform)
    # Persistent, so that their processor time can still be read at the end.
    loader = DataLoader(data, options.batch, shuffle=True, num_workers=options.workers, persistent_workers=True)
    images, begun, worked = 0, None, 0
    for batch, _ in loader:
        if begun is None:
            begun, worked = time.perf_counter(), processors()
        else:
            images += len(batch)
    print(json.dumps({"images": images, "seconds": time.perf_counter() - begun, "processors": processors() - worked}))


if __name__ == "__main__":
    main()
