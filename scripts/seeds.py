"""Tables for the demo: rows of text, and what accuracies of several seeds tell."""

import statistics

# The quantile 0.975 of Student's t for 1, 2, … degrees of freedom. It falls further, down to 1.96: with more seeds than
# these, the last one claims too little, never too much.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def print_table(head, rows, left=2):
    """Prints rows of text below a head, the first `left` columns flush left."""
    rows = [head, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        print("  " + "   ".join(cells).rstrip())


def spread(values):
    """Mean and standard deviation (of the sample), which one value does not have."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def interval(differences, resolution):
    """The 95 % confidence interval of the mean of differences by seed, in points. Accuracies are multiples of
    `resolution`, so differences that happen to be equal still deviate by as much."""
    quantile = T_QUANTILES[min(len(differences) - 1, len(T_QUANTILES)) - 1]
    half = quantile * max(statistics.stdev(differences), resolution) / len(differences) ** 0.5
    mean = statistics.mean(differences)
    return mean - half, mean + half


def verdict(name, other, differences, resolution):
    """What the differences by seed tell, and no more."""
    if len(differences) < 2:
        return "one seed tells nothing: set SEEDS=6"
    low, high = interval(differences, resolution)
    said = f"95 % interval {low:+.2f} to {high:+.2f}: "
    if low > 0 or high < 0:
        return f"{said}{name} is {'better' if low > 0 else 'worse'} with this teacher on these images"
    return f"{said}these {len(differences)} seeds do not tell which of {name} and {other} is better"


def print_seeds(last, titles, pairs, images):
    """Prints the last top-1 accuracies by student and seed, and the differences by seed for each pair of students. `last`
    has a list of percentages per student, measured on `images` images."""
    seeds = len(next(iter(last.values())))
    resolution = 100 / images
    of = "one seed" if seeds == 1 else f"{seeds} seeds, mean ± standard deviation"
    print(f"\nTop-1 after the last epoch, {of}; one of the {images} evaluation images is {resolution:.2f} points:\n")
    head = ("", "top-1, %", *(f"seed {seed}" for seed in range(seeds)))
    row = lambda name: (titles[name], spread(last[name]), *(f"{value:.2f}" for value in last[name]))
    print_table(head, [row(name) for name in last], left=1)
    print("\nDifference by seed, in points:\n")
    for name, other in pairs:
        differences = [one - two for one, two in zip(last[name], last[other])]
        mean = ("+" if statistics.mean(differences) >= 0 else "") + spread(differences)
        tells = verdict(titles[name], titles[other], differences, resolution)
        print(f"  {titles[name]} − {titles[other]}: {mean}; {tells}")
    print("\nThese are eight epochs of small digits. docs/fidelity.md says what longer runs have shown.", flush=True)
