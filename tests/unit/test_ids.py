"""Ids: version 7 UUIDs, RFC 9562 section 5.7."""

import time
from uuid import RFC_4122

import pytest

from requeuest_trio._model.ids import uuid7


def test_format() -> None:
    before, made, after = time.time_ns(), uuid7(), time.time_ns()
    assert made.version == 7
    assert made.variant == RFC_4122
    assert before // 1_000_000 <= made.int >> 80 <= after // 1_000_000


def test_unique() -> None:
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_every_random_bit_varies() -> None:
    ids = [uuid7().int for _ in range(200)]
    fixed = (0xF << 76) | (0b11 << 62)
    ones, zeros = 0, 0
    for made in ids:
        ones |= made
        zeros |= ~made
    assert (ones & zeros & ~fixed) & ((1 << 80) - 1) == ((1 << 80) - 1) & ~fixed


def test_later_ids_sort_after_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in [0, 1, 1_700_000_000_000, 1_700_000_000_001, (1 << 48) - 1]:
        monkeypatch.setattr("time.time_ns", lambda now=milliseconds: now * 1_000_000)
        made.append(uuid7())
    assert made == sorted(made)
    assert sorted(str(one) for one in made) == [str(one) for one in made]
