"""Tables in Markdown, made from the records alone."""

import statistics
import textwrap
from datetime import datetime

from . import published
from .comparison import by_method, curve, difference, pairs, settled
from .experiments import Method
from .running import duration_text

NAMES = {"none": "alone", "kd": "KD", "dkd": "DKD", "nkd": "NKD"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EXPLANATION = (
    "Differences are of the top-1 accuracy after the last epoch, seed by seed, in points; ± is the standard deviation "
    "of the sample. The interval covers 95 %, and p is that of the paired t test on both sides, with n − 1 degrees of "
    "freedom. Both are about further seeds with this teacher on these images. One in twenty such intervals misses by "
    "chance."
)


def title(method):
    """`sdd_kd+ls:1,2` is SD-KD + LS {1, 2}."""
    of = Method.parse(method)
    name = f"SD-{NAMES[of.name.removeprefix('sdd_')]}" if of.has_regions else NAMES[of.name]
    scales = f" {{{', '.join(map(str, of.scales))}}}" if of.scales else ""
    return name + (" + LS" if of.standardised else "") + scales


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prose(text, indent=""):
    """In lines as long as those of the documents."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def spread(values, sign=False):
    """Mean ± deviation, which one value does not have."""
    mean = f"{statistics.mean(values):+.2f}" if sign else f"{statistics.mean(values):.2f}"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean}{deviation}".replace("-", "−")


def head(records):
    """What was trained."""
    settings, teacher, students = records.settings, records.teacher, records.students
    one = students[0]
    parts = [f"**{settings['pair'][0]} → {settings['pair'][1]}** on {settings['dataset']}",
             f"{one['epochs']} epochs of {one['images']:,} images of {settings['image_size']} pixels"]
    if teacher:
        parts.append(f"one teacher, {teacher['epochs']} epochs, {teacher['best_top1']:.2f} %")
    parts.append(f"top-1 on {one['eval_images']:,} images")
    if settings["views"]:
        parts.append(f"{settings['views']} augmented views of each image where there is a teacher")
    return prose("; ".join(parts) + ".")


def results(records):
    settings, rows = records.settings, []
    runs = by_method(records)
    figures = {method: published.top1(settings["dataset"], settings["pair"], method) for method in runs}
    is_published = any(figures.values())
    for method, of in runs.items():
        of = list(of.values())
        row = [title(method), scales_text(of[0]["scales"]), str(len(of)), spread([one["last_top1"] for one in of]),
               spread([one["best_top1"] for one in of])]
        if is_published:
            row.append(f"{figures[method]:.2f}" if figures[method] else "–")
        rows.append(row)
    columns = ["student", "scales", "n", "top-1 after the last epoch", "of the best epoch"]
    return table(columns + ["published, best of 240 epochs"] * is_published, rows)


def scales_text(scales):
    return ", ".join(map(str, scales)) if scales else ""


def comparisons(records):
    runs, rows = by_method(records), []
    for method, other in pairs(runs):
        found = difference(runs, method, other)
        if not found.values:
            continue
        since = settled(curve(runs, method, other))
        rows.append([f"{title(method)} − {title(other)}", str(len(found.values)), spread(found.values, sign=True),
                     interval_text(found), p_text(found.p),
                     published_gain(method, other), verdict_text(found), "–" if since is None else f"{since:g}"])
    if not rows:
        return "Nothing can be compared yet: no two methods have a seed in common."
    columns = ["difference", "n", "mean", "95 % interval", "p", "published, CIFAR-100", "these seeds say",
               "same sign since epoch"]
    return f"{table(columns, rows)}\n\n{prose(EXPLANATION)}"


def published_gain(method, other):
    return published.gains_text(method) if other == method.split(":")[0].removeprefix("sdd_") else "–"


def interval_text(found):
    if found.interval is None:
        return "–"
    low, high = found.interval
    return f"{low:+.2f} to {high:+.2f}".replace("-", "−")


def p_text(p):
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict_text(found):
    return {
        "better": f"{title(found.method)} is better",
        "worse": f"{title(found.method)} is worse",
        "not decided": f"not which is better: {len(found.values)} seeds are too few for this difference",
        "one seed": "nothing: it is one seed",
    }[found.verdict]


def runs(records):
    """Accuracy and time of each run, and on which machine."""
    of_method = by_method(records)
    everything = [record for record in [records.teacher, *records.students] if record]
    machines = list(dict.fromkeys(map(machine_text, everything)))
    is_one = len(machines) == 1
    letter = lambda record: "" if is_one else f" ({LETTERS[machines.index(machine_text(record)) % len(LETTERS)]})"
    cell = lambda record: f"{record['last_top1']:.2f}, {duration_text(record['seconds'])}{letter(record)}"
    seeds = sorted({seed for of in of_method.values() for seed in of})
    rows = [[title(method), *(cell(of[seed]) if seed in of else "–" for seed in seeds)]
            for method, of in of_method.items()]
    if records.teacher:
        rows.append(["teacher", cell(records.teacher), *[""] * (len(seeds) - 1)])
    total = duration_text(sum(record["seconds"] for record in everything))
    dates = sorted(datetime.fromisoformat(record["finished_at"].replace("Z", "+00:00")).date() for record in everything)
    where = machines if is_one else [f"{LETTERS[index % len(LETTERS)]}: {text}" for index, text in enumerate(machines)]
    where.append(f"{total} in total; the runs ended from {dates[0]} to {dates[-1]}.")
    return table(["top-1, time", *(f"seed {seed}" for seed in seeds)], rows) + "\n\n" + "\n".join(
        prose(f"- {text}", indent="  ") for text in where)


def machine_text(record):
    of, version = record["machine"], record["version"]
    where = f"{of['cpu']}, {of['cores']} cores, {of['flags']}" if of["cpu"] else "another machine than the program's"
    card = f" ({of['card'].get('name')})" if of["card"] else ""
    return (f"{where}; {of['device']}{card}, {of['threads']} threads, {of['precision']}; distillery "
            f"{version['distillery']}, libtorch {version['libtorch']}.")
