#!/usr/bin/env python3
"""Runs exported students in ONNX Runtime, and compares their logits with others.

For every NAME.onnx in a directory there is a NAME.safetensors with `images` [N, 3, H, W] and `logits` [N, classes], both
float32. Each file is checked by ONNX itself, with strict shape inference, and run with all images at once and with one at
a time. Prints JSON: for each file the largest and the mean square difference of two logits, the same of the logits, the
images whose best class
differs, and the outputs beside the logits. A NAME.pt2 is run by PyTorch in the same way, if it is there.

    .deps/onnxruntime/run scripts/check_export.py DIRECTORY
"""

import json
import pathlib
import struct
import sys

import numpy


def tensors(path):
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    kinds = {"F32": numpy.float32, "F64": numpy.float64, "I64": numpy.int64}
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in kinds:
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = numpy.frombuffer(data[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return found


def compare(run, samples):
    images, expected = samples["images"].astype(numpy.float32), samples["logits"]
    outputs = run(images)
    logits = outputs.pop("logits")
    each = numpy.concatenate([run(image[None])["logits"] for image in images])
    assert logits.shape == each.shape == expected.shape, (logits.shape, each.shape, expected.shape)
    differences = [numpy.abs(found - expected).max() for found in (logits, each)]
    return {
        "mean_square_difference": float(((logits - expected) ** 2).mean()),
        "mean_square_logit": float((expected**2).mean()),
        "largest_difference": float(max(differences)),
        "largest_logit": float(numpy.abs(expected).max()),
        "other_class": int((logits.argmax(1) != expected.argmax(1)).sum()),
        "outputs": {name: output.reshape(-1).tolist() for name, output in outputs.items()},
    }


def check_onnx(path, samples):
    import onnx
    import onnxruntime

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images):
        return dict(zip(names, session.run(None, {"images": images})))

    facts = compare(run, samples)
    facts["opset"] = model.opset_import[0].version
    facts["metadata"] = {entry.key: entry.value for entry in model.metadata_props}
    facts["inferred"] = len(inferred.graph.value_info)
    return facts


def check_pt2(path, samples):
    import torch

    network = torch.export.load(str(path)).module()

    def run(images):
        # The network was exported for two images or more.
        images = torch.from_numpy(numpy.concatenate([images, images]))
        with torch.no_grad():
            return {"logits": network(images)[: len(images) // 2].numpy()}

    return compare(run, samples)


def main():
    directory = pathlib.Path(sys.argv[1])
    checks = {".onnx": check_onnx, ".pt2": check_pt2}
    facts = {}
    for path in sorted(path for path in directory.iterdir() if path.suffix in checks):
        try:
            facts[path.name] = checks[path.suffix](path, tensors(path.with_suffix(".safetensors")))
        except Exception as error:  # One file that fails must not hide the others.
            facts[path.name] = {"error": f"{type(error).__name__}: {error}"}
    json.dump(facts, sys.stdout)


main()
