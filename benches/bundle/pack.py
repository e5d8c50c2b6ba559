#!/usr/bin/env python3
"""Packs images of CIFAR-100's parquet files into fewer bytes, for scripts/gpu-bundle.

    .deps/pytorch_bench/run benches/bundle/pack.py DATA OUT

DATA has Hugging Face's train-*.parquet and test-*.parquet. OUT gets files of the same layout with the first 150
training and the first 50 test images of each class, re-encoded as lossless WebP: 20,000 images of CIFAR-100, with the
same pixels in fewer bytes than as PNG.
"""

import collections
import io
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet
from PIL import Image

PER_CLASS = {"train": 150, "test": 50}
LABELS, IMAGES = ("fine_label", "label"), ("img", "image")


def column(table, names, path):
    found = [name for name in names if name in table.column_names]
    if not found:
        sys.exit(f"{path} has none of the columns {', '.join(names)}: name a directory with CIFAR-100's parquet files")
    return found[0]


def smaller(encoded):
    """The same pixels as lossless WebP."""
    pixels = Image.open(io.BytesIO(encoded)).convert("RGB")
    packed = io.BytesIO()
    pixels.save(packed, "WEBP", lossless=True, quality=100, method=4)
    if Image.open(io.BytesIO(packed.getvalue())).convert("RGB").tobytes() != pixels.tobytes():
        sys.exit("an image has other pixels as lossless WebP: this Pillow cannot be used")
    return packed.getvalue()


def pack(data, out, split, wanted):
    files = sorted(data.glob(f"{split}-*.parquet"))
    if not files:
        sys.exit(f"{data} has no {split}-*.parquet")
    taken, seen = [], collections.Counter()
    for path in files:
        table = pyarrow.parquet.read_table(path)
        label, image = column(table, LABELS, path), column(table, IMAGES, path)
        rows = []
        for row, value in enumerate(table.column(label).to_pylist()):
            if seen[value] < wanted:
                seen[value] += 1
                rows.append(row)
        table = table.take(rows)
        position = table.column_names.index(image)
        values = [{"bytes": smaller(value["bytes"]), "path": None} for value in table.column(image).to_pylist()]
        field = table.schema.field(position)
        taken.append(table.set_column(position, field, pa.array(values, type=field.type)))
    short = [value for value, count in seen.items() if count < wanted]
    if short:
        sys.exit(f"{data}: {len(short)} classes have fewer than {wanted} images in the {split} split")
    table = pa.concat_tables(taken)
    pyarrow.parquet.write_table(table, out / f"{split}-00000-of-00001.parquet")
    print(f"{split}: {len(table)} images of {len(seen)} classes, the first {wanted} of each")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for split, wanted in PER_CLASS.items():
        pack(data, out, split, wanted)


if __name__ == "__main__":
    main()
