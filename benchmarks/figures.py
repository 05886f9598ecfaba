"""The arithmetic: several repetitions become a least, a median and a most; two cases become a ratio."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HEADLINES = ("rate", "p50_ms")
"""The figure of a case that is compared with that of others: the first of these that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over all repetitions."""

    low: float
    median: float
    high: float
    each: Sequence[float]


def spread(values: Sequence[float]) -> Spread:
    """Sum up the repetitions."""
    return Spread(low=min(values), median=statistics.median(values), high=max(values), each=list(values))


def headline(repetition: dict[str, float]) -> float:
    """What a repetition is compared by."""
    return next(repetition[name] for name in HEADLINES if name in repetition)


def ratio(these: Sequence[dict[str, float]], those: Sequence[dict[str, float]]) -> Spread:
    """How one case compares with another, repetition by repetition: what happened at the same time compares best.

    In the middle of a run one of them may be a repetition ahead, which does not count.
    """
    return spread([headline(this) / headline(that) for this, that in zip(these, those, strict=False)])
