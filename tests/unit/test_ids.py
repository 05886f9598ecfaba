"""Ids: version 7 UUIDs, RFC 9562 section 5.7, in the order in which they were made."""

import time
from uuid import RFC_4122

import pytest

from requeuest_trio._model.ids import Ids


def test_format() -> None:
    before, made, after = time.time_ns(), Ids().next(), time.time_ns()
    assert made.version == 7
    assert made.variant == RFC_4122
    assert before // 1_000_000 <= made.int >> 80 <= after // 1_000_000


def test_two_sources_make_different_ids() -> None:
    assert len({Ids().next() for _ in range(10_000)}) == 10_000


def test_every_random_bit_but_the_highest_varies() -> None:
    """The highest is left free for increases within a millisecond."""
    made = [Ids().next().int for _ in range(200)]
    fixed = (0x1F << 75) | (0b11 << 62)
    ones, zeros = 0, 0
    for one in made:
        ones |= one
        zeros |= ~one
    assert (ones & zeros & ~fixed) & ((1 << 80) - 1) == ((1 << 80) - 1) & ~fixed


def test_ids_of_one_source_are_in_order() -> None:
    """Many of them are of the same millisecond."""
    ids = Ids()
    made = [ids.next() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert sorted(str(one) for one in made) == [str(one) for one in made]


def test_a_clock_that_is_set_back_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = Ids()
    made = []
    for milliseconds in [1_700_000_000_000, 1_700_000_000_001, 1_600_000_000_000, 1_700_000_000_001, (1 << 48) - 1]:
        monkeypatch.setattr("time.time_ns", lambda now=milliseconds: now * 1_000_000)
        made.append(ids.next())
    assert made == sorted(set(made))
    assert {one.version for one in made} == {7}


def test_a_used_up_millisecond_borrows_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = Ids()
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000 * 1_000_000)
    first = ids.next()
    monkeypatch.setattr(ids, "_random", (1 << 74) - 1)
    assert ids.next().int >> 80 == (first.int >> 80) + 1
