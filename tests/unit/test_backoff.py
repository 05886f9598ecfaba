"""Pauses that grow from one failure to the next."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio._model.backoff import Backoff


def test_pauses_grow_up_to_the_cap() -> None:
    backoff = Backoff(initial=1, cap=10, multiplier=3, jitter=0)
    assert [backoff.delay(failures, random.random) for failures in range(6)] == [0, 1, 3, 9, 10, 10]


@given(failures=st.integers(1, 100_000), jitter=st.floats(0, 1), chance=st.floats(0, 1, exclude_max=True))
def test_chance_only_shortens(failures: int, jitter: float, chance: float) -> None:
    most = Backoff(jitter=0).delay(failures, lambda: chance)
    assert most * (1 - jitter) <= Backoff(jitter=jitter).delay(failures, lambda: chance) <= most <= Backoff().cap


@pytest.mark.parametrize(
    "wrong", [{"initial": 0}, {"initial": 20}, {"multiplier": 0.5}, {"jitter": 1.5}, {"jitter": float("nan")}]
)
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Backoff"):
        Backoff(**wrong)
