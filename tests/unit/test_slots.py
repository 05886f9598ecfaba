"""Which channels get how many slots: the limit holds, and a channel that has none gets one while any is left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio._engine.slots import Slots, Wish

WISHES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20)), max_size=30)


def wishes_of(numbers: list[tuple[int, int, int]]) -> list[Wish]:
    return [Wish(f"c{index}", *number) for index, number in enumerate(numbers)]


@given(st.integers(1, 600), st.integers(0, 600), WISHES, st.none() | st.integers(1, 40))
def test_no_more_is_given_than_there_is(
    most: int, others: int, numbers: list[tuple[int, int, int]], named: int
) -> None:
    wishes = wishes_of(numbers)
    taken = others + sum(wish.occupied for wish in wishes)
    slots = Slots(most, named)
    granted = slots.share_out(taken, wishes)
    begun = {wish.channel: min(wish.free, granted.get(wish.channel, 0)) for wish in wishes}
    assert sum(begun.values()) <= max(0, most - taken)
    for wish in wishes:
        number = granted.get(wish.channel, 0)
        assert 0 <= number <= wish.free + wish.ahead
        # Jobs ahead are for those whose slots are all taken.
        assert number <= wish.free or begun[wish.channel] == wish.free


@given(st.integers(2, 600), st.integers(1, 40), st.integers(0, 80))
def test_a_channel_with_none_gets_one_beside_any_that_hang(most: int, concurrency: int, hanging: int) -> None:
    """They take all that they are given, and give nothing back; as long as they are fewer than the reserved ones."""
    slots = Slots(most, None)
    reserved = -(-most // 8) if most > 1 else 0
    hanging = min(hanging, reserved - 1)
    occupied = dict.fromkeys(map(str, range(hanging)), 0)
    while True:
        wishes = [Wish(name, number, concurrency - number, 0) for name, number in occupied.items()]
        granted = slots.share_out(sum(occupied.values()), [wish for wish in wishes if wish.free])
        if not granted:
            break
        for name, number in granted.items():
            occupied[name] += number
    taken = sum(occupied.values())
    assert taken <= most
    assert slots.share_out(taken, [Wish("healthy", 0, concurrency, 0)])["healthy"] >= 1


@pytest.mark.parametrize(
    ("most", "channels", "reserved"),
    [(512, None, 64), (512, 1, 0), (512, 3, 2), (8, None, 1), (7, None, 1), (2, None, 1), (1, None, 0), (1, 5, 0)],
)
def test_what_is_reserved(most: int, channels: int | None, reserved: int) -> None:
    slots = Slots(most, channels)
    assert slots.share_out(0, [Wish("a", 0, most, 0)]) == {"a": most - reserved}
    assert slots.room(most - reserved, 1) == 0
    assert slots.room(most - reserved, 0) == (1 if reserved else 0)
    assert slots.room(most, 0) == 0


def test_free_slots_are_shared_in_equal_parts() -> None:
    wishes = [Wish(name, 0, 10, 5) for name in "abc"]
    assert Slots(24, None).share_out(0, wishes) == {"a": 7, "b": 7, "c": 7}
    assert Slots(24, None).share_out(20, wishes) == {"a": 1, "b": 1, "c": 1}
    # There are fewer of them than channels: what the first ones get is no longer there for the last.
    assert Slots(24, None).share_out(22, wishes) == {"a": 1, "b": 1}
    assert Slots(100, None).share_out(0, wishes) == {"a": 15, "b": 15, "c": 15}


WISH = st.builds(Wish, st.just("a"), st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))


@given(WISH, st.integers(0, 80))
def test_a_limit_leaves_what_fits_under_it_and_nothing_ahead(wish: Wish, attempts: int) -> None:
    limited = wish.limited(attempts)
    assert limited.occupied == wish.occupied
    assert limited.ahead == 0
    assert limited.free == max(0, min(wish.free, attempts - wish.occupied))
    # Limits of several kinds may come in any order.
    assert limited.limited(7) == wish.limited(7).limited(attempts) == wish.limited(min(attempts, 7))


@given(WISH.filter(lambda wish: wish.free))
def test_a_reserved_slot_is_occupied_and_not_free(wish: Wish) -> None:
    reserved = wish.with_one_reserved()
    assert reserved.occupied + reserved.free == wish.occupied + wish.free
    assert reserved.occupied == wish.occupied + 1
