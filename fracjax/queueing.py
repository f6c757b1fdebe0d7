"""How long studies wait to be read: first come, ranked by likelihood, or ranked with a limit.

Ranking does not read faster: whatever gains, something else loses. What loses most is a fracture
that the model misses (Baltruschat et al., Eur. Radiol. 31:3837, 2021, found the mean turnaround of
chest radiographs to fall and the longest to grow; a limit of waiting brought it down again).
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fracjax.errors import UsageError
from fracjax.metrics import Sample

Order = Literal["first_come", "ranked", "ranked_with_limit"]

ORDERS: tuple[Order, ...] = ("first_come", "ranked", "ranked_with_limit")

FEW = 10
"""Studies of a kind under which it is said that they are few."""

OF = ("all", "positives", "false_negatives")
"""Whose wait is told: of false negatives, positives below the threshold."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Department:
    """How studies come and are read.

    Attributes:
        studies_per_hour: That arrive, one independent of the other (a Poisson process).
        minutes_per_study: That reading one takes, on average; exponentially distributed.
        readers: Who read at the same time.
        hours: Of a day in which studies arrive. What is left then is read, too.
        days: That are simulated, each of which begins with nothing to read.
        max_wait: Minutes after which a study is read next, in the order of arrival.
    """

    studies_per_hour: float = 24.0
    minutes_per_study: float = 2.0
    readers: int = 1
    hours: float = 12.0
    days: int = 200
    max_wait: float = 60.0

    def __post_init__(self) -> None:
        for name in ("studies_per_hour", "minutes_per_study", "readers", "hours", "max_wait"):
            if not 0 < getattr(self, name) < 1e6:
                raise UsageError(
                    f"{name.replace('_', ' ')} of {getattr(self, name):g} cannot be simulated; "
                    "give more than 0 and less than a million"
                )
        if not 2 <= self.days <= 10_000:
            raise UsageError(f"{self.days} days cannot be simulated; give 2 to 10000")

    @property
    def load(self) -> float:
        """Part of the readers' time that reading takes; above 1, the queue grows all day."""
        return self.studies_per_hour * self.minutes_per_study / 60 / self.readers


class Wait(NamedTuple):
    """Minutes, each over the days that have such a study, with the interval of the simulation.

    NaN where no day has one, and of the interval where one day has.

    That is the 95 % interval of the mean over days, as if the studies that are drawn from were all
    there are: more days make it narrower, and only more studies the wait surer.
    """

    mean: float
    mean_low: float
    mean_high: float
    longest: float
    longest_low: float
    longest_high: float
    studies: int


def simulate(
    sample: Sample, threshold: float, department: Department, *, seed: int = 0
) -> dict[Order, Mapping[str, Wait]]:
    """Let studies wait, in each order on the same days.

    Args:
        sample: Studies whose labels and raw likelihoods are drawn from, with replacement.
        threshold: Raw likelihood from which on a study is called positive.
        department: How studies come and are read.
        seed: Of all that is drawn.

    Returns:
        By order, and for each of :data:`OF`, how long they wait until they begin to be read.
    """
    rng = np.random.default_rng(seed)
    days: dict[Order, dict[str, list[Floats]]] = {order: {of: [] for of in OF} for order in ORDERS}
    for _ in range(department.days):
        count = int(rng.poisson(department.studies_per_hour * department.hours))
        arrivals = np.sort(rng.uniform(0, 60 * department.hours, count))
        durations = rng.exponential(department.minutes_per_study, count)
        rows = rng.integers(len(sample), size=count)
        scores, positive = sample.scores[rows], sample.labels[rows] == 1
        members = {
            "all": np.ones(count, bool),
            "positives": positive,
            "false_negatives": positive & (scores < threshold),
        }
        for order in ORDERS:
            waits = read(
                arrivals,
                durations,
                np.zeros(count) if order == "first_come" else scores,
                department.readers,
                department.max_wait if order == "ranked_with_limit" else np.inf,
            )
            for of, chosen in members.items():
                days[order][of].append(waits[chosen])
    return {
        order: {of: _summary(waits) for of, waits in by_member.items()}
        for order, by_member in days.items()
    }


def read(
    arrivals: Floats, durations: Floats, scores: Floats, readers: int, max_wait: float = np.inf
) -> Floats:
    """Read studies, whenever a reader is free the one with the highest score that is there.

    A study that is begun is read to its end. Of equal scores, the one that came first is read.

    Args:
        arrivals: (n,), minutes, rising.
        durations: (n,), minutes.
        scores: (n,).
        readers: How many read.
        max_wait: Minutes after which a study is read next, before any score.

    Returns:
        (n,), minutes from the arrival until it begins to be read.
    """
    free = [0.0] * readers
    waiting: list[tuple[float, int]] = []
    begun = np.full(len(arrivals), np.nan)
    came = oldest = 0
    for _ in range(len(arrivals)):
        now = heapq.heappop(free)
        while oldest < came and not np.isnan(begun[oldest]):
            oldest += 1
        if oldest == came:  # nobody waits, so the reader does
            now = max(now, arrivals[came])
        while came < len(arrivals) and arrivals[came] <= now:
            heapq.heappush(waiting, (-scores[came], came))
            came += 1
        if now - arrivals[oldest] > max_wait:
            chosen = oldest
        else:
            while not np.isnan(begun[waiting[0][1]]):  # was read for its wait
                heapq.heappop(waiting)
            _, chosen = heapq.heappop(waiting)
        begun[chosen] = now
        heapq.heappush(free, now + durations[chosen])
    return begun - arrivals


def lines(
    waits: Mapping[Order, Mapping[str, Wait]],
    sample: Sample,
    department: Department,
    threshold: float,
) -> list[str]:
    """Say who waits how long, in which order, and of which studies that is drawn."""
    positive = sample.labels == 1
    missed = int((positive & (sample.scores < threshold)).sum())
    said = [
        f"drawn from {len(sample)} labelled studies, {int(positive.sum())} positive, {missed} of "
        "them missed",
    ]
    if department.load >= 1:
        said.append(
            "as much comes as can be read, or more, so the queue grows all day, in any order"
        )
    few = [
        name
        for name, count in (("positives", positive.sum()), ("false negatives", missed))
        if count < FEW
    ]
    if few:
        said.append(f"fewer than {FEW} {' and '.join(few)}: what is said of them is of those few")
    said += [
        "studies without a likelihood, which a worklist has first, do not come",
        f"{department.studies_per_hour:g} studies an hour for {department.hours:g} hours, "
        f"{department.minutes_per_study:g} minutes each; readers: {department.readers}, at work "
        f"{100 * min(department.load, 1):.0f} % of that time; {department.days} days",
        f"false negatives: positives of a raw likelihood below {threshold:.4f}",
        "minutes until a study begins to be read (95 % interval of the simulation alone)",
        f"  {'order':<18} {'of':<16} {'studies':>8}  {'mean':<24} longest of a day",
    ]
    for order, by_member in waits.items():
        for of, wait in by_member.items():
            mean = _in_words(wait.mean, wait.mean_low, wait.mean_high)
            longest = _in_words(wait.longest, wait.longest_low, wait.longest_high)
            said.append(f"  {order:<18} {of:<16} {wait.studies:8d}  {mean:<24} {longest}")
    return [*said, f"ranked_with_limit reads next what has waited {department.max_wait:g} minutes."]


def _in_words(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "none came"
    return f"{value:.1f} " + ("(one day)" if np.isnan(low) else f"({low:.1f} to {high:.1f})")


def _summary(days: list[Floats]) -> Wait:
    there = [waits for waits in days if len(waits)]
    means = _over_days([float(waits.mean()) for waits in there])
    longest = _over_days([float(waits.max()) for waits in there])
    return Wait(*means, *longest, sum(map(len, there)))


def _over_days(values: list[float]) -> tuple[float, float, float]:
    if not values:
        return (np.nan,) * 3
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, np.nan, np.nan
    half = 1.96 * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return mean, max(0.0, mean - half), mean + half
