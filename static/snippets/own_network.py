import json

import torch
from safetensors import safe_open


def load(path, network):
    """Weights for your network, whose state-dict keys must be those of the published code, and what the file says."""
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}
    network.load_state_dict(state, strict=True)
    return network.eval(), facts
