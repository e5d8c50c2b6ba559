#!/usr/bin/env python3
"""Makes examples/data/digits from scikit-learn's table of the UCI handwritten digits.

    scripts/make-digits.py digits.csv.gz examples/data/digits

digits.csv.gz is sklearn/datasets/data/digits.csv.gz from a scikit-learn wheel: 1,797 lines of 64 pixels from 0 to 16 and
the digit. The last fifth of each digit's images, in file order, is the test split, so both splits have the same share of
every digit. (Different people wrote the two halves of the file.)
"""

import gzip
import sys
from collections import defaultdict
from pathlib import Path


def idx(shape, data):
    """Encodes bytes as an IDX file."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
    return header + bytes(data)


def main():
    source, target = sys.argv[1], Path(sys.argv[2])
    of_digit = defaultdict(list)
    with gzip.open(source, "rt") as lines:
        for position, line in enumerate(lines):
            *pixels, digit = (int(float(field)) for field in line.split(","))
            of_digit[digit].append((position, pixels))
    splits = {"train": [], "t10k": []}
    for digit, images in of_digit.items():
        first_test = len(images) - len(images) // 5
        splits["train"] += [(position, pixels, digit) for position, pixels in images[:first_test]]
        splits["t10k"] += [(position, pixels, digit) for position, pixels in images[first_test:]]
    target.mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        images.sort()
        pixels = [min(255, pixel * 16) for _, row, _ in images for pixel in row]
        (target / f"{split}-images-idx3-ubyte").write_bytes(idx([len(images), 8, 8], pixels))
        (target / f"{split}-labels-idx1-ubyte").write_bytes(idx([len(images)], [digit for _, _, digit in images]))
        print(split, len(images))


if __name__ == "__main__":
    main()
