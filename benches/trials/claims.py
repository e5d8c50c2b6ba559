"""What the paper claims, and what the records say about each claim."""

import dataclasses

from .comparison import by_method, difference
from .experiments import PLANS
from .published import gains_text
from .tables import interval_text, spread, table


@dataclasses.dataclass(frozen=True)
class Claim:
    text: str
    published: str = "–"
    experiment: str = ""
    method: str = ""
    other: str = ""
    """The claim is that `method` is better than `other` in `experiment`. Without one, nothing here can test it."""


def claims():
    regions = [Claim(f"Regions improve {name}", gains_text(f"sdd_{base}"), "cifar100", f"sdd_{base}", base)
               for base, name in (("kd", "KD"), ("dkd", "DKD"), ("nkd", "NKD"))]
    row = [dataclasses.replace(claim, text=f"{claim.text}, in a pair of the paper", experiment="published")
           for claim in regions]
    return [
        Claim("Distillation improves on training alone", experiment="cifar100", method="kd", other="none"),
        *regions,
        Claim("Regions improve KD on fine-grained images, scales {1, 2}", "+3.1 to +5.8, CUB-200", "imagewoof",
              "sdd_kd:1,2", "kd"),
        Claim("The same, scales {1, 2, 4}", "+3.1 to +5.8, CUB-200", "imagewoof", "sdd_kd:1,2,4", "kd"),
        Claim("{1, 2} is better than {1, 2, 4} in one family", "+0.89, resnet32x4 → resnet8x4", "imagewoof",
              "sdd_kd:1,2", "sdd_kd:1,2,4"),
        *row,
        Claim("Regions gain more on fine-grained images than on CIFAR-100", "+3.1 to +5.8 on CUB-200, +1.08 to +3.30"),
        Claim("A weight of 2 for complementary regions is better than 1 and 4", "76.30; 75.62 and 75.99"),
        Claim("Regions improve KD on ImageNet", "+1.74, resnet50 → mobilenet_v1"),
    ]


def claims_table(files):
    """`files` has the records by experiment."""
    rows = []
    for claim in claims():
        records = files.get(claim.experiment)
        found = difference(by_method(records), claim.method, claim.other) if records else None
        pair = " → ".join(PLANS[claim.experiment].experiment.pair) if claim.experiment else ""
        if not found or not found.values:
            rows.append([claim.text, claim.published, pair, "", "not tried"])
            continue
        measured = spread(found.values, sign=True)
        if found.interval:
            measured += f", 95 % interval {interval_text(found)}"
        rows.append([claim.text, claim.published, pair, measured, said(found)])
    return table(["claim", "published", "pair here", "measured here", "here"], rows)


def said(found):
    seeds = len(found.values)
    return {
        "better": f"**holds**, {seeds} seeds",
        "worse": f"**does not hold**: the opposite does, {seeds} seeds",
        "not decided": f"not decided by {seeds} seeds",
        "one seed": "not decided: one seed",
    }[found.verdict]


def shares_table(files):
    """The share of complementary regions, by experiment and scale."""
    rows = []
    for records in files.values():
        by_scale = {}
        for record in records.students:
            share = record["complementary"] or {"eval": None}
            for scale, value in (share["eval"] or {}).items():
                if scale not in ("all", "1"):
                    by_scale.setdefault(int(scale), (value, share["train"][scale]))
        for scale, (evaluated, trained) in sorted(by_scale.items()):
            trained = "–" if trained is None else f"{100 * trained:.1f} %"
            rows.append([records.settings["dataset"], records.settings["pair"][0], f"{scale} × {scale}",
                         f"{100 * evaluated:.1f} %", trained])
    if not rows:
        return "No run with regions is recorded."
    return table(["data set", "teacher", "regions", "complementary on the evaluation images", "in training"], rows)
