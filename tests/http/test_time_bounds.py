"""What strangers say is read in time that grows no faster than the text.

Each call in the table is measured at 1 kB, 10 kB, 100 kB and 1 MB of every hostile shape, as far as that is needed to
see how it grows.
"""

from __future__ import annotations

import re
import time
from itertools import count

import pytest

from requeuest_trio._model.masking import masked_url
from tests.foreign_text import BOUNDED, SHAPES, Call, refusing

SIZES = (1_000, 10_000, 100_000, 1_000_000)
MOST_GROWTH = 35.0
"""Of the time, for ten times the text: linear is 10, quadratic is 100."""
CLEAR_GROWTH = 15.0
"""What grows less is linear. Between the two, what is linear may hide the rest, and the next size tells."""
TELLING = 0.01
"""Seconds. Less is not compared, being mostly what any call costs."""
MOST_AT_FIRST = 0.1
"""Seconds for the smallest."""
TRIES = 5
_numbers = count()


def text_of(shape: str, size: int) -> str:
    """A text of that shape, and always a new one: there are caches."""
    return (shape * (size // len(shape)))[: size - 8] + f"{next(_numbers):08}"


def duration(call: Call, shape: str, size: int) -> float:
    """Of this thread alone, so that what else the machine does is not in it."""
    text = text_of(shape, size)
    started = time.thread_time()
    call(text)
    return time.thread_time() - started


def grows_too_fast(call: Call, shape: str) -> str | None:
    """Compares size after size, so that what is cubic is found before it takes hours."""
    limit, before = MOST_AT_FIRST, 0.0
    for size in SIZES:
        taken = duration(call, shape, size)
        tries = 1
        while taken > limit and tries < TRIES:
            # Both once more: what else runs on the machine takes its share of the caches and of the memory's time.
            taken = min(taken, duration(call, shape, size))
            if size > SIZES[0]:
                before = max(before, duration(call, shape, size // 10))
                limit = max(limit, before * MOST_GROWTH)
            tries += 1
        if taken > limit:
            return f"{taken:.4f} s for {size:,} characters, where {limit:.4f} s would be generous"
        if TELLING < taken < before * CLEAR_GROWTH:
            return None
        limit, before = max(taken * MOST_GROWTH, TELLING), taken
    return None


@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_ten_times_the_text_takes_ten_times_the_time(name: str) -> None:
    found = {
        f"call {number}, {shape}": problem
        for number, call in enumerate(BOUNDED[name])
        for shape, unit in SHAPES.items()
        if (problem := grows_too_fast(refusing(call), unit))
    }
    assert not found


def test_the_measure_finds_what_is_quadratic() -> None:
    quadratic = re.compile(r"[?&][^=]*=")
    assert grows_too_fast(lambda text: quadratic.sub("", text), "?key")
    assert not grows_too_fast(masked_url, "?key")
