#!/usr/bin/env python3
"""Writes the data sets of synthetic pictures that benches/pipeline.py reads.

    pictures.py DIR --large 4000 --small 16384

DIR/folder is an image folder of JPEGs (quality 90, about 500 × 375 pixels); DIR/parquet has the same bytes in shards as
pyarrow writes them (a thousand rows per row group, Snappy); DIR/small has PNGs of 32 × 32 pixels like CIFAR-100's. A
picture is a pile of shapes whose sizes follow a power law ("dead leaves") under a texture whose amplitude falls with
the frequency. Edges, spectrum and compression ratio then resemble those of photographs.

Needs numpy, pillow and pyarrow (scripts/setup pytorch_bench).
"""

import argparse
import io
import pathlib

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image, ImageDraw, ImageFilter

CLASSES = 10
ROWS = 1000
# Painting a picture takes longer than reading one, so each is written many times, flipped, with another JPEG comment.
DISTINCT = 200


def texture(random, side=1024):
    """Noise [side, side, 3] of mean 0 whose amplitude falls as 1/f, correlated between channels."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1
    planes = []
    for _ in range(4):
        phase = random.uniform(0, 2 * np.pi, frequency.shape)
        plane = np.fft.irfft2(np.exp(1j * phase) / frequency, (side, side))
        planes.append((plane - plane.mean()) / plane.std())
    return np.stack([planes[0] + 0.3 * planes[channel] for channel in (1, 2, 3)], 2)


def paint(random, noise):
    width, height = int(random.normal(490, 30)), int(random.normal(375, 25))
    if random.random() < 0.25:
        width, height = height, width
    image = Image.new("RGB", (width, height), tuple(random.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(400):
        # Density r^-3 between 4 and 150 pixels.
        radius = 4 / np.sqrt(1 - random.random() * (1 - (4 / 150) ** 2))
        x, y, shape = random.uniform(0, width), random.uniform(0, height), random.uniform(0.5, 2)
        box = (x - radius * shape, y - radius, x + radius * shape, y + radius)
        colour = tuple(np.clip(random.normal(115, 60) + random.normal(0, 25, 3), 0, 255).astype(int))
        (draw.ellipse if random.random() < 0.7 else draw.rectangle)(box, fill=colour)
    top, left = random.integers(0, noise.shape[0] - height), random.integers(0, noise.shape[1] - width)
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32)
    grained = soft + random.uniform(5, 20) * noise[top : top + height, left : left + width] + random.normal(0, 2, soft.shape)
    return Image.fromarray(np.clip(grained, 0, 255).astype(np.uint8))


TURNS = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM]


def jpegs(pictures, count):
    """Yields `count` JPEGs whose bytes all differ."""
    turned = [picture if turn is None else picture.transpose(turn) for turn in TURNS for picture in pictures]
    encoded = []
    for picture in turned[:count]:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    for number in range(count):
        body = encoded[number % len(encoded)]
        yield body[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + body[2:]


def pngs(random, pictures, count):
    for number in range(count):
        picture = pictures[number % len(pictures)]
        side = int(random.integers(64, 256))
        left, top = random.integers(0, picture.width - side), random.integers(0, picture.height - side)
        buffer = io.BytesIO()
        picture.resize((32, 32), Image.Resampling.BILINEAR, (left, top, left + side, top + side)).save(buffer, "PNG")
        yield buffer.getvalue()


def shards(directory, encoded, rows):
    directory.mkdir(parents=True)
    labels = [number % CLASSES for number in range(len(encoded))]
    images = [{"bytes": image, "path": None} for image in encoded]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": pyarrow.array(labels, pyarrow.int64())})
    pyarrow.parquet.write_table(table, directory / "train-00000-of-00001.parquet", row_group_size=rows)


def folder(directory, encoded):
    for number, image in enumerate(encoded):
        path = directory / "train" / f"{number % CLASSES:02}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--large", type=int, default=4000, help="number of JPEGs")
    parser.add_argument("--small", type=int, default=16384, help="number of PNGs")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows per row group")
    options = parser.parse_args()
    random = np.random.default_rng(1)
    noise = texture(random)
    pictures = [paint(random, noise) for _ in range(min(DISTINCT, options.large))]
    large = list(jpegs(pictures, options.large))
    folder(options.directory / "folder", large)
    shards(options.directory / "parquet", large, options.rows)
    shards(options.directory / "small", list(pngs(random, pictures, options.small)), options.rows)
    print(f"{len(large)} JPEGs of {sum(map(len, large)) / len(large) / 1e3:.0f} kB on average")


if __name__ == "__main__":
    main()
