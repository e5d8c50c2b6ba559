"""The curve of differences over epochs, as SVG."""

import math
from xml.sax.saxutils import escape

from .comparison import by_method, curve, pairs
from .experiments import Method
from .tables import title

WIDTH, HEIGHT = 780, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 200, 46, 48
# Distinguishable with any colour vision (Okabe and Ito), and by their dashes without any.
STYLES = (("#0072B2", ""), ("#D55E00", "7 3"), ("#009E73", "2 3"), ("#CC79A7", "9 3 2 3"), ("#56B4E9", "12 4"))


def curves(records):
    """(title, points) of each loss over regions minus the same loss without."""
    runs = by_method(records)
    found = []
    for method, other in pairs(runs):
        of = Method.parse(method)
        if of.has_regions and not of.standardised and not Method.parse(other).has_regions:
            if points := curve(runs, method, other):
                found.append((f"{title(method)} − {title(other)}", points))
    return found


def svg(records):
    """The drawing, or `None` if there is nothing to draw."""
    found = curves(records)
    if not found:
        return None
    settings = records.settings
    seeds = len({record["seed"] for record in records.students})
    axes = Axes(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="13" fill="#222" role="img" aria-labelledby="title">',
        f'<title id="title">{escape(records.name)}: gain of regions over epochs</title>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<clipPath id="inside"><rect x="{LEFT}" y="{TOP}" width="{axes.width}" height="{axes.height}"/></clipPath>',
        text(LEFT, 24, f"{' → '.join(settings['pair'])}, {settings['dataset']}: what regions gain, mean of up to "
             f"{seeds} seed{'s' * (seeds != 1)}, band ± standard deviation", "start"),
        *axes.draw(),
    ]
    for index, (name, points) in enumerate(found):
        parts += line(axes, points, *STYLES[index % len(STYLES)]) + legend(index, name, *STYLES[index % len(STYLES)])
    return "\n".join([*parts, "</svg>"]) + "\n"


class Axes:
    """Maps epochs and points of top-1 to pixels."""

    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def __init__(self, found):
        self.first = min(points[0][0] for _, points in found)
        self.last = max(points[-1][0] for _, points in found)
        # The first epochs, where differences are many times as large, would flatten the others.
        late = self.first + (self.last - self.first) / 5
        edges = [mean + side * (deviation or 0) for _, points in found for epoch, mean, deviation in points
                 if epoch >= late for side in (-1, 1)]
        low, high = min(0, *edges), max(0, *edges)
        self.step = nice_step((high - low) or 1)
        self.low, self.high = math.floor(low / self.step) * self.step, math.ceil(high / self.step) * self.step
        if self.low == self.high:
            self.high += self.step
        everything = [mean for _, points in found for _, mean, _ in points]
        self.outside = sum(not self.low <= mean <= self.high for mean in everything)

    def x(self, epoch):
        return LEFT + self.width * (epoch - self.first) / ((self.last - self.first) or 1)

    def y(self, value):
        return TOP + self.height * (self.high - value) / (self.high - self.low)

    def draw(self):
        parts = []
        for index in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + index * self.step
            y, is_zero = self.y(value), abs(value) < self.step / 2
            parts.append(f'<path d="M{LEFT} {y:.1f}h{self.width}" stroke="{"#222" if is_zero else "#ddd"}"/>')
            label = "0" if is_zero else f"{value:+.10g}".replace("-", "−")
            parts.append(text(LEFT - 8, y + 4, label, "end"))
        step = max(1, nice_step(self.last - self.first))
        for index in range(int(self.last / step) + 1):
            if (epoch := index * step) >= self.first:
                parts.append(f'<path d="M{self.x(epoch):.1f} {TOP + self.height}v5" stroke="#222"/>')
                parts.append(text(self.x(epoch), TOP + self.height + 19, f"{epoch:g}", "middle"))
        parts.append(text(LEFT + self.width / 2, HEIGHT - 10, "epoch", "middle"))
        parts.append(f'<text transform="translate(16 {TOP + self.height / 2:.1f}) rotate(-90)" text-anchor="middle">'
                     "difference of top-1, points</text>")
        if self.outside:
            note = f"{self.outside} early point{'s' * (self.outside != 1)} outside"
            parts.append(text(WIDTH - RIGHT + 14, TOP + self.height, note, "start"))
        return parts


def nice_step(extent):
    """1, 2 or 5 times a power of ten, for four to nine steps."""
    raw = extent / 6
    power = 10 ** math.floor(math.log10(raw))
    return min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / raw)))


def text(x, y, content, anchor):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def stroke(colour, dash):
    return f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash or "none"}"'


def line(axes, points, colour, dash):
    place = lambda epoch, value: f"{axes.x(epoch):.1f} {axes.y(value):.1f}"
    parts = ['<g clip-path="url(#inside)">']
    if all(deviation is not None for _, _, deviation in points):
        upper = [place(epoch, mean + deviation) for epoch, mean, deviation in points]
        lower = [place(epoch, mean - deviation) for epoch, mean, deviation in reversed(points)]
        parts.append(f'<path d="M{"L".join(upper + lower)}z" fill="{colour}" fill-opacity="0.13"/>')
    path = "L".join(place(epoch, mean) for epoch, mean, _ in points)
    parts.append(f'<path d="M{path}" fill="none" {stroke(colour, dash)}/>')
    return [*parts, "</g>"]


def legend(index, name, colour, dash):
    x, y = WIDTH - RIGHT + 14, TOP + 14 + 22 * index
    return [f'<path d="M{x} {y}h26" {stroke(colour, dash)}/>',
            text(x + 32, y + 4, name, "start")]
