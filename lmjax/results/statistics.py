"""Statistics of runs that differ only in the seed: means with their spread, and paired differences."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

CONFIDENCE = 0.95


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
    """The mean difference of two samples over the seeds that both have.

    Attributes:
        count: how many seeds.
        mean: of the differences.
        half_width: of the two-sided 95% confidence interval, from Student's t distribution with count - 1 degrees of
            freedom; None for a single seed.
    """

    count: int
    mean: float
    half_width: float | None


def difference(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The paired difference, ours minus baseline, of numbers by seed; None if they have no seed in common."""
    seeds = sorted(ours.keys() & baseline.keys())
    if not seeds:
        return None
    found = spread(ours[seed] - baseline[seed] for seed in seeds)
    if found.std is None:
        return Difference(1, found.mean, None)
    from scipy import stats

    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)
    return Difference(len(seeds), found.mean, float(quantile) * found.std / math.sqrt(len(seeds)))
