"""What the runs of an experiment tell: accuracies by method, and paired differences by seed."""

import dataclasses
import statistics

from .experiments import Method
from .student_t import two_sided_p, two_sided_quantile

COVERAGE = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
    """The last top-1 accuracy of `method` minus that of `other`, in points, for each seed that has both."""

    method: str
    other: str
    by_seed: dict
    resolution: float
    """What one evaluation image is worth."""

    @property
    def values(self):
        return list(self.by_seed.values())

    @property
    def mean(self):
        return statistics.mean(self.values)

    @property
    def deviation(self):
        """Of the sample. `None` for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def error(self):
        """The standard error of the mean. Accuracies are multiples of the resolution, so differences that happen to be
        equal still deviate by as much."""
        return max(self.deviation, self.resolution) / len(self.values) ** 0.5

    @property
    def interval(self):
        """That of Student's t for the mean. `None` for one seed."""
        if self.deviation is None:
            return None
        half = two_sided_quantile(COVERAGE, len(self.values) - 1) * self.error
        return self.mean - half, self.mean + half

    @property
    def p(self):
        """Of the paired t test, on both sides. `None` for one seed."""
        return None if self.deviation is None else two_sided_p(self.mean / self.error, len(self.values) - 1)

    @property
    def verdict(self):
        """`better`, `worse`, or why neither can be said. An interval that touches 0 in print decides nothing."""
        if not self.values:
            return "not tried"
        if self.interval is None:
            return "one seed"
        low, high = (round(edge, 2) for edge in self.interval)
        return "better" if low > 0 else "worse" if high < 0 else "not decided"


def by_method(records):
    """The runs of each method, by seed, in the order in which methods appear in the file."""
    runs = {}
    for record in records.students:
        runs.setdefault(record["method"], {})[record["seed"]] = record
    return {method: dict(sorted(of.items())) for method, of in runs.items()}


def difference(runs, method, other):
    """`runs` as of `by_method`."""
    first, second = runs.get(method, {}), runs.get(other, {})
    seeds = [seed for seed in first if seed in second]
    by_seed = {seed: first[seed]["last_top1"] - second[seed]["last_top1"] for seed in seeds}
    images = [first[seed]["eval_images"] for seed in seeds]
    return Difference(method, other, by_seed, 100 / min(images) if images else 0.0)


def pairs(methods):
    """What is compared with what: distillation with none, each loss over regions with the same without regions,
    standardised logits with plain ones, and fewer scales with more."""
    methods = list(dict.fromkeys(methods))
    found = [("kd", "none")]
    for method in methods:
        of = Method.parse(method)
        if of.standardised:
            found.append((method, method.replace("+ls", "")))
        elif of.has_regions:
            found.append((method, of.name.removeprefix("sdd_")))
    of_scales = sorted((Method.parse(method).scales, method) for method in methods if Method.parse(method).scales)
    found += [(fewer, more) for (_, fewer), (_, more) in zip(of_scales, of_scales[1:])
              if Method.parse(fewer).name == Method.parse(more).name]
    return [pair for pair in found if set(pair) <= set(methods)]


def curve(runs, method, other):
    """Mean and deviation over the seeds of the difference of eval/top1: (epoch, mean, deviation or None) by epoch."""
    first, second = runs.get(method, {}), runs.get(other, {})
    by_epoch = {}
    for seed in first:
        if seed not in second:
            continue
        theirs = dict(map(tuple, second[seed]["curve"]))
        for epoch, value in first[seed]["curve"]:
            if epoch in theirs:
                by_epoch.setdefault(epoch, []).append(value - theirs[epoch])
    most = max(map(len, by_epoch.values()), default=0)
    return [(epoch, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
            for epoch, values in sorted(by_epoch.items()) if len(values) == most]


def settled(points):
    """The first epoch from which on the mean difference keeps its last sign; `None` without points or with a last
    difference of 0."""
    since = None
    for epoch, mean, _ in reversed(points):
        if mean * points[-1][1] <= 0:
            break
        since = epoch
    return since
