import json

import torch
from safetensors import safe_open


def load(path, build):
    """Returns the network of a downloaded student, and the metadata of its file."""
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}
    network = build(facts["architecture"], int(facts["num_classes"]))
    network.load_state_dict(state, strict=True)
    return network.eval(), facts
