"""The published figures, as the labels of the jobs in examples/published have them."""

import json

from .experiments import Method
from .records import ROOT

EXAMPLES = ROOT / "examples/published"


def top1(dataset, pair, method):
    """The best top-1 accuracy of 240 epochs; `None` if it is not published."""
    path = EXAMPLES / dataset / f"{pair[0]}-{pair[1]}-{method}.json"
    return float(json.loads(path.read_text())["labels"]["published_top1"]) if path.exists() else None


def gains(method):
    """What regions gain over the same loss without them, in every published pair on CIFAR-100."""
    base = method.removeprefix("sdd_")
    files = sorted(EXAMPLES.glob(f"cifar100/*-{method}.json"))
    pairs = [path.name.removesuffix(f"-{method}.json").split("-") for path in files]
    figures = [(top1("cifar100", pair, method), top1("cifar100", pair, base)) for pair in pairs]
    return [ours - theirs for ours, theirs in figures if ours is not None and theirs is not None]


def gains_text(method):
    """Such as `+1.08 to +3.30, 7 pairs`; for methods that are not published, `–`."""
    of = Method.parse(method)
    found = gains(of.name) if of.has_regions and not of.standardised else []
    return f"{min(found):+.2f} to {max(found):+.2f}, {len(found)} pairs".replace("-", "−") if found else "–"
