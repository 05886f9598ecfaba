"""When channels have something due, as far as anybody has to be told: in how many seconds, of each channel what is due
now, and what first of all that is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requeuest_trio._store.new_jobs import NewJob

__all__ = ["Waits", "first_two", "firsts", "known_waits", "merged", "pairs", "waits_of", "without"]

Waits = dict[str, list[float]]
"""Of each channel one wait, or two if the first is 0. None is less than 0."""


def firsts(waits: Iterable[tuple[str, float]]) -> Waits:
    """Of each channel the waits that matter."""
    by_channel: dict[str, set[float]] = {}
    for channel, wait in waits:
        by_channel.setdefault(channel, set()).add(max(0.0, wait))
    return {channel: first_two(of_channel) for channel, of_channel in by_channel.items()}


def first_two(waits: Iterable[float]) -> list[float]:
    """The shortest wait; and if that is none at all, the next."""
    in_turn = sorted(waits)
    return in_turn[:2] if in_turn[0] == 0 else in_turn[:1]


def pairs(waits: Mapping[str, Sequence[float]]) -> Iterable[tuple[str, float]]:
    """One by one."""
    return ((channel, wait) for channel, of_channel in waits.items() for wait in of_channel)


def merged(one: Waits, other: Waits) -> Waits:
    """Those of both."""
    return firsts(chain(pairs(one), pairs(other))) if one and other else one or other


def known_waits(jobs: Sequence[NewJob]) -> Waits:
    """Those of jobs about to be stored, as far as they can be known: not of those with an ordering key, which may be
    blocked, nor of those with a time of their own, which only the database can compare with now."""
    known = {(job.channel, job.delay) for job in jobs if job.ordering_key is None and job.at is None}
    return {channel: [delay] for channel, delay in known} if len(known) <= 1 else firsts(known)


def waits_of(jobs: Sequence[NewJob], now: float) -> Waits:
    """Those of jobs without an ordering key, `now` being the database's time when they were stored."""
    different = {(job.channel, job.at, job.delay) for job in jobs if job.ordering_key is None}
    return firsts((channel, delay if at is None else at.timestamp() - now) for channel, at, delay in different)


def without(waits: Waits, known: Waits) -> Waits:
    """What there is to tell whoever knows some of it."""
    return {channel: of_channel for channel, of_channel in waits.items() if of_channel != known.get(channel)}
