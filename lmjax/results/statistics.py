"""Statistics of runs that differ only in the seed: means with their spread, and paired differences."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95
_MOST_DIGITS, _HUGE = 6, 1e100  # a square of larger numbers may be infinite


class Spread(NamedTuple):
    """A sample in two numbers; formats as "1.23 ± 0.45".

    Attributes:
        mean: of the sample.
        std: the standard deviation, over n - 1; None for a single value.
    """

    mean: float
    std: float | None

    def __format__(self, spec: str) -> str:
        return format(self.mean, spec) + ("" if self.std is None else f" ± {self.std:{spec}}")


def spread(values: Iterable[float]) -> Spread:
    """The mean and the sample standard deviation of at least one value."""
    values = [float(value) for value in values]
    if not all(map(math.isfinite, values)):  # which `statistics.stdev` cannot take
        return Spread(sum(values) / len(values), math.nan if len(values) > 1 else None)
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


class Difference(NamedTuple):
    """The mean difference of two samples over the seeds that both have, and whether it may be chance.

    Attributes:
        count: how many seeds.
        mean: of the differences.
        half_width: of the two-sided 95% confidence interval, from Student's t distribution with count - 1 degrees of
            freedom; None for a single seed.
        p: the probability of a mean at least as far from 0 if there were no difference (two-sided paired t-test); None
            for a single seed, and where all differ by the same.
        std: the standard deviation of the differences; None for a single seed.
        correlation: of the two samples; None for fewer than three seeds, and where one is constant or not finite.
        below: in how many seeds ours is smaller.
    """

    count: int
    mean: float
    half_width: float | None = None
    p: float | None = None
    std: float | None = None
    correlation: float | None = None
    below: int = 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two ends of the confidence interval."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)

    def ends(self, digits: int) -> str:
        """The confidence interval, as in "-0.52 to +0.33", with more digits if an end would be 0; "" for one seed."""
        if self.interval is None:
            return ""
        while digits < _MOST_DIGITS and any(x and not float(f"{x:.{digits}f}") for x in self.interval):
            digits += 1
        return " to ".join(f"{x:+.{digits}f}" for x in self.interval)


def difference(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The paired difference, ours minus baseline, of numbers by seed; None if they have no seed in common."""
    seeds = sorted(ours.keys() & baseline.keys())
    if not seeds:
        return None
    pairs = [(float(ours[seed]), float(baseline[seed])) for seed in seeds]
    found, below = spread(a - b for a, b in pairs), sum(a < b for a, b in pairs)
    if found.std is None:
        return Difference(1, found.mean, below=below)
    from scipy import stats

    error, freedom = found.std / math.sqrt(len(seeds)), len(seeds) - 1
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    equal = found.std <= 1e-9 * max(1.0, abs(found.mean))  # but for rounding
    p = None if equal else float(2 * stats.t.sf(abs(found.mean) / error, freedom))
    correlation, samples = None, list(zip(*pairs, strict=True))
    if len(seeds) > 2 and all(len(set(sample)) > 1 and all(abs(x) < _HUGE for x in sample) for sample in samples):
        correlation = statistics.correlation(*samples)
    return Difference(len(seeds), found.mean, quantile * error, p, found.std, correlation, below)


def holm(values: Sequence[float]) -> list[float]:
    """Correct the p of tests made together (Holm 1979).

    The chance that any of them is below 0.05 without a difference is then at most 5%. The smallest of m is multiplied
    by m, the next by m - 1, and so on; none is less than one before it, or above 1.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    factors = range(len(values), 0, -1)
    corrected = itertools.accumulate((min(1.0, n * values[i]) for n, i in zip(factors, order, strict=True)), max)
    return [p for _, p in sorted(zip(order, corrected, strict=True))]
