"""Student's t distribution, by numerical integration.

With t = sqrt(v) tan(a), the density of t with v degrees of freedom becomes c cos(a)^(v - 1) on -pi/2 < a < pi/2, where
c = gamma((v + 1) / 2) / (sqrt(pi) gamma(v / 2)): a smooth function on a bounded interval.
"""

import functools
import math

# Of Simpson's rule. Probabilities are then right to 1e-8 up to a thousand degrees of freedom.
INTERVALS = 1000


def two_sided_p(t, freedom):
    """The probability of a |t| at least this large."""
    if freedom < 1:
        raise ValueError("a t test needs a degree of freedom: two pairs or more")
    return 2 * _upper_tail(math.atan(abs(t) / math.sqrt(freedom)), freedom)


@functools.cache
def two_sided_quantile(coverage, freedom):
    """The t that |t| stays below with this probability: 4.303 for 0.95 and two degrees of freedom."""
    if not 0 < coverage < 1:
        raise ValueError("a coverage is between 0 and 1")
    low, high = 0.0, math.pi / 2
    # Halved until neighbouring numbers are left.
    for _ in range(53):
        middle = (low + high) / 2
        if 2 * _upper_tail(middle, freedom) > 1 - coverage:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _upper_tail(angle, freedom):
    """The integral of the density from this angle to pi/2. It is not 1 minus the rest, so that small probabilities
    keep their digits."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    step = (math.pi / 2 - angle) / INTERVALS
    total = 0.0
    for index in range(INTERVALS + 1):
        weight = 1 if index in (0, INTERVALS) else 4 if index % 2 else 2
        # cos(pi/2 - x) = sin(x), exact near pi/2.
        total += weight * math.sin((INTERVALS - index) * step) ** (freedom - 1)
    return scale * total * step / 3
