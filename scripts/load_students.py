"""Loads students of networks that torchvision or timm have, too, into these, and compares the logits.

    .deps/networks/run scripts/load_students.py DIRECTORY…

Each directory is the output of `distillery train` and has a bundle.zip with the student as safetensors. The images and the
logits that the student must have are those of samples.safetensors. Prints a line for each student and library, and fails
if one does not load with strict=True or computes something else. Run by `make networks` and by the trainer's tests.
"""

import json
import pathlib
import sys
import tempfile
import zipfile

import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file

# Largest difference of logits, as a share of the largest.
TOLERANCE = 1e-4
RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101"]
# By the name here: the libraries that have it, and its name there.
KNOWN = {name: {"torchvision": name, "timm": name} for name in RESNETS} | {"mobilenet_v2_224": {"torchvision": "mobilenet_v2"}}
LIBRARIES = {"torchvision": torchvision.models.get_model, "timm": timm.create_model}


def expected(directory):
    """Normalised images [N, 3, S, S], and the best student's logits [N, classes]."""
    samples = load_file(directory / "samples.safetensors")
    scale, offset = (samples[name].view(1, 3, 1, 1) for name in ("scale", "offset"))
    return samples["images"].float() * scale + offset, samples["logits"]


def check(directory):
    """The faults of a student, after a line for each library."""
    faults = []
    images, logits = expected(directory)
    with tempfile.TemporaryDirectory() as unpacked:
        with zipfile.ZipFile(directory / "bundle.zip") as bundle:
            bundle.extractall(unpacked)
        file = pathlib.Path(unpacked, "student.safetensors")
        weights = load_file(file)
        with safe_open(file, "pt") as opened:
            facts = opened.metadata()
        labels = json.loads(pathlib.Path(unpacked, "labels.json").read_text())
    if len(labels) != logits.shape[1]:
        faults.append(f"{directory}: {len(labels)} labels for {logits.shape[1]} classes")
    for library, name in KNOWN[facts["architecture"]].items():
        model = LIBRARIES[library](name, num_classes=len(labels))
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            faults.append(f"{library}'s {name}: {error}")
            continue
        with torch.no_grad():
            found = model.eval()(images)
        difference = ((found - logits).abs().max() / logits.abs().max()).item()
        print(f"{facts['architecture']} in {library}: {len(weights)} tensors, {len(images)} images, difference {difference:.1e}")
        # Not a number is no agreement.
        if not difference <= TOLERANCE:
            faults.append(f"{library}'s {name}: logits differ by {difference:.1e} of the largest")
    return faults


def main():
    directories = [pathlib.Path(argument) for argument in sys.argv[1:]]
    if not directories:
        sys.exit(__doc__)
    faults = [fault for directory in directories for fault in check(directory)]
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
