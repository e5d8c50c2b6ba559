"""Every network of the project in plain PyTorch, from the files that the dashboard shows (static/snippets).

    python examples/networks.py     # checks that each loads a state dict and computes the published code's logits

Needs torch and numpy, which `scripts/setup pytorch_bench` puts behind .deps/pytorch_bench/run.
"""

import importlib
import json
import math
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "static/snippets"))

FAMILIES = [
    importlib.import_module(name) for name in ("cifar_resnet", "wide_resnet", "vgg", "mobilenet", "shufflenet", "resnet")
]


def build(name, num_classes):
    """Builds the network of that name; its method `features` returns the final feature map [B, C, H, W]."""
    for family in FAMILIES:
        if name in family.NETWORKS:
            return family.build(name, num_classes)
    raise SystemExit(f"unknown network {name!r}; known: {', '.join(n for f in FAMILIES for n in f.NETWORKS)}")


def hashed(count, key):
    """The numbers of the fixtures: 2·frac(sin(12.9898·i + 78.233·key)·43758.5453) − 1."""
    import numpy as np

    values = np.sin(12.9898 * np.arange(count, dtype=np.float64) + 78.233 * key) * 43758.5453
    return torch.from_numpy(2 * (values - np.floor(values)) - 1)


def state_dict(shapes, statistics):
    """The fixtures' state dict for the given names and shapes; running statistics differ from a new network's by
    `statistics` times a hash."""
    state = {}
    for key, (name, shape) in enumerate(shapes.items()):
        noise = hashed(math.prod(shape), key).view(shape)
        if name.endswith("running_mean"):
            state[name] = statistics * noise
        elif name.endswith("running_var"):
            state[name] = 1 + 2 * statistics * noise
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
        elif len(shape) > 1:
            state[name] = noise * math.sqrt(6 / math.prod(shape[1:]))
        else:
            state[name] = (1 if name.endswith("weight") else 0) + 0.2 * noise
    return state


def difference(network, entry, expected):
    """The relative difference between a network's logits and a fixture's."""
    side = entry["input"][1]
    with torch.no_grad():
        logits = network(hashed(4 * 3 * side * side, 1000).view(4, 3, side, side))
    first = torch.tensor(expected["logits_first_8"], dtype=torch.float64)
    norm = abs(logits.norm().item() / expected["logits_l2"] - 1)
    return max(((logits[:, :8] - first).norm() / first.norm()).item(), norm)


def main():
    fixture = json.loads((ROOT / "tests/fixtures/architectures.json").read_text())
    evaluation = json.loads((ROOT / "trainer/tests/fixtures/architectures_evaluation.json").read_text())
    listed = {name for family in FAMILIES for name in family.NETWORKS}
    assert listed == set(fixture), f"present on one side only: {sorted(listed ^ set(fixture))}"
    for name, entry in fixture.items():
        network = build(name, entry["classes"]).double().train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        network.load_state_dict(state_dict(entry["state_dict"], 0.0), strict=True)
        found = {"in training": difference(network, entry, entry)}
        if name in evaluation:
            network.load_state_dict(state_dict(entry["state_dict"], 0.1), strict=True)
            found["in evaluation"] = difference(network.eval(), entry, evaluation[name])
        assert max(found.values()) < 1e-6, f"{name} differs from the published network: {found}"
        differences = ", ".join(f"{error:.0e} {mode}" for mode, error in found.items())
        print(f"{name}: relative difference to the published logits: {differences}")


if __name__ == "__main__":
    main()
