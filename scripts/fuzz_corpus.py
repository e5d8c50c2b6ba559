"""Writes the inputs from which the fuzz targets start: small files of every format that is read.

    scripts/fuzz_corpus.py DIRECTORY               DIRECTORY/TARGET/…, run by scripts/fuzz
    .deps/networks/run scripts/fuzz_corpus.py --networks
                                                   fuzz/exported.zip: what PyTorch exports of the small networks of
                                                   scripts/operator_networks.py, one for each operator that is read.
                                                   Those that are there stay; without the file, all are exported
"""

import gzip
import io
import json
import pathlib
import pickle
import struct
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
NETWORKS = ROOT / "fuzz/exported.zip"
IMAGES = ROOT / "tests/fixtures/images"
PIXEL = b"P5 1 1 255\n\x80"
# The layouts of fuzz/src/files.rs.
WEBDATASET, PARQUET, PICKLES, IDX, METADATA, FOLDERS = (bytes([layout]) for layout in range(6))


def tar(files):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def zipped(files, compression):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return made.getvalue()


def archives():
    files = {f"train/{label}/{at}.pgm": PIXEL for label in ("cat", "dog") for at in range(2)}
    files |= {"test/cat/a.pgm": PIXEL, "__MACOSX/._a": b"", "README.txt": b"cats"}
    yield "tar", tar(files)
    yield "gzip", gzip.compress(tar(files), mtime=0)
    yield "stored", zipped(files, zipfile.ZIP_STORED)
    yield "deflated", zipped(files, zipfile.ZIP_DEFLATED)
    yield "outside", tar({"../a": b"b"})
    yield "long", tar({"a/" * 60 + "b" * 120: b"c"})


def datasets():
    yield "webdataset", WEBDATASET + tar({name: content for at in range(3) for name, content in [
        (f"{at}.pgm", PIXEL), (f"{at}.cls", str(at % 2).encode())]})
    labels = {f"{name}.json": b'{"label": %d}' % at for at, name in enumerate("ab")}
    yield "json", WEBDATASET + tar(dict(sorted({"a.pgm": PIXEL, "b.pgm": PIXEL, **labels}.items())))
    for protocol in (0, 2, 4):
        batch = {b"data": bytes(3072 * 2), b"labels": [0, 1], b"filenames": [b"a", b"b"], b"label_names": [b"c", b"d"]}
        yield f"pickle{protocol}", PICKLES + pickle.dumps(batch, protocol)
    images = struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(8)
    labels = struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([0, 1])
    yield "idx", IDX + images + labels.ljust(len(images), b"\0")
    text = b"file_name,label\na.pgm,cat\n"
    lines = b'{"file_name": "a.pgm", "label": "cat"}\n'
    yield "metadata", METADATA + text.ljust(len(lines), b"\n") + lines
    for image in sorted(IMAGES.iterdir()):
        yield image.stem, FOLDERS + image.read_bytes() * 2


def documents():
    for path in sorted((ROOT / "examples").rglob("*.json")):
        yield "-".join(path.relative_to(ROOT / "examples").parts), path.read_bytes()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for at, block in enumerate(path.read_text().split("```")[1::2]):
            _, _, content = block.partition("\n")
            if content.lstrip().startswith("{"):
                yield f"{path.stem}-{at}", content.encode()


def checkpoints():
    for path in sorted((ROOT / "tests/fixtures/checkpoints").iterdir()):
        if path.is_file() and path.stat().st_size < 100_000:
            yield path.name, path.read_bytes()


def networks():
    with zipfile.ZipFile(NETWORKS) as archive:
        for name in archive.namelist():
            yield name, archive.read(name)


def without_traces(value):
    """A document without what PyTorch notes for people."""
    if isinstance(value, dict):
        return {key: {} if key == "metadata" else without_traces(inner) for key, inner in value.items()}
    return [without_traces(inner) for inner in value] if isinstance(value, list) else value


def exported(program):
    """A program's documents and one storage, with a byte 0 between them: the input of the target `exported`."""
    import torch

    with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
        torch.export.save(program, file.name)
        with zipfile.ZipFile(file.name) as archive:
            read = {name.split("/", 1)[1]: name for name in archive.namelist()}
            model = json.loads(archive.read(read["models/model.json"]))
            weights = json.loads(archive.read(read["data/weights/model_weights_config.json"]))
    end = 0
    for entry in weights["config"].values():
        elements = 1
        for size in entry["tensor_meta"]["sizes"]:
            elements *= size["as_int"]
        entry["path_name"] = "weight_0"
        entry["tensor_meta"]["storage_offset"] = {"as_int": end}
        end += elements
    documents = [json.dumps(without_traces(document), separators=(",", ":")).encode() for document in (model, weights)]
    # Eight bytes for each element, so that integers have room, too.
    return b"\0".join([*documents, bytes(8 * end)])


def exported_network(name):
    """What PyTorch exports of a small network, as `exported` gives it."""
    import operator_networks
    import torch

    model, side = operator_networks.build(name, 2)
    batch = torch.export.Dim("batch", min=2, max=65536)
    images = torch.zeros(2, 3, side, side)
    return exported(torch.export.export(model.train(), (images,), dynamic_shapes=({0: batch},)))


def write_networks():
    import operator_networks

    made = dict(networks()) if NETWORKS.exists() else {}
    for name in operator_networks.names():
        if name not in made:
            made[name] = exported_network(name)
            print(name, len(made[name]), flush=True)
    with zipfile.ZipFile(NETWORKS, "w") as archive:
        for name in operator_networks.names():
            # With one date, so that equal networks make an equal file.
            archive.writestr(zipfile.ZipInfo(name), made[name], zipfile.ZIP_DEFLATED, 9)


def main():
    if sys.argv[1:] == ["--networks"]:
        return write_networks()
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    made = {"archive": archives, "dataset": datasets, "document": documents, "exported": networks, "torch": checkpoints}
    for target, inputs in made.items():
        directory = pathlib.Path(sys.argv[1], target)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in inputs():
            (directory / name).write_bytes(content)


if __name__ == "__main__":
    main()
