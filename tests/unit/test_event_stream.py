"""
What one subscriber reads of the events: in order, of bounded number, each that is missing counted where it is missing.

What could go wrong, and is tried here: a count that is off by one, a `Dropped` at the wrong place, an event that is
lost or comes twice because reading was cancelled, a reader that sleeps although there is something, one that lets no
other task run, and one that keeps those who emit waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._observe.event import Event
from requeuest_trio._observe.stream import MOST_UNREAD, EventStream

A_FEW = st.integers(1, 5)
MANY = st.integers(MOST_UNREAD - 2, 2 * MOST_UNREAD + 2)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "read"]), A_FEW | MANY), max_size=12)


def anywhere() -> None:
    """These may be read by whoever likes to."""


def numbered(number: int) -> events.Rescued:
    return events.Rescued(jobs=number)


async def read(stream: EventStream, number: int) -> list[Event]:
    return [await anext(stream) for _ in range(number)]


async def rest_of(stream: EventStream) -> list[Event]:
    stream.close()
    return [event async for event in stream]


@given(steps=STEPS)
def test_what_is_read_is_what_was_put_but_for_what_is_said_to_be_missing(steps: list[tuple[str, int]]) -> None:
    """Beside a model: a list of numbers, of which the first go once there are too many."""

    async def follow() -> None:
        stream, expected, got = EventStream(anywhere), list[Event](), list[Event]()
        put, unread, missing = 0, deque[int](), 0

        def next_expected() -> Event:
            nonlocal missing
            if missing:
                count, missing = missing, 0
                return events.Dropped(count=count)
            return numbered(unread.popleft())

        for step, number in steps:
            if step == "put":
                for _ in range(number):
                    stream.put(numbered(put))
                    unread.append(put)
                    put += 1
                while len(unread) > MOST_UNREAD:
                    unread.popleft()
                    missing += 1
            else:
                readable = min(number, len(unread) + bool(missing))
                expected += [next_expected() for _ in range(readable)]
                got += await read(stream, readable)
        while unread or missing:
            expected.append(next_expected())
        got += await rest_of(stream)
        assert got == expected
        shown = [event.jobs if isinstance(event, events.Rescued) else event for event in got]
        assert _told(shown) == put

    trio.run(follow)


def _told(shown: Sequence[object]) -> int:
    """How many events a reader knows of, who follows what is numbered and what is missing."""
    known = 0
    for each in shown:
        if isinstance(each, events.Dropped):
            known += each.count
        else:
            assert each == known
            known += 1
    return known


async def test_exactly_so_many_wait_to_be_read() -> None:
    stream = EventStream(anywhere)
    for number in range(MOST_UNREAD):
        stream.put(numbered(number))
    assert repr(stream) == f"<EventStream open: {MOST_UNREAD} unread, 0 dropped before them>"
    stream.put(numbered(MOST_UNREAD))
    assert repr(stream) == f"<EventStream open: {MOST_UNREAD} unread, 1 dropped before them>"
    assert await read(stream, 2) == [events.Dropped(count=1), numbered(1)]
    assert (await rest_of(stream))[-1] == numbered(MOST_UNREAD)
    assert repr(stream) == "<EventStream closed: 0 unread, 0 dropped before them>"


async def test_a_reader_is_woken_by_what_comes(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    stream, got = EventStream(anywhere), list[Event]()

    async def follow() -> None:
        async for event in stream:
            got.append(event)

    nursery.start_soon(follow)
    for number in range(3):
        await trio.sleep(1)
        stream.put(numbered(number))
        await trio.testing.wait_all_tasks_blocked()
        assert got == [numbered(past) for past in range(number + 1)]
    assert nursery.child_tasks
    stream.close()
    await trio.testing.wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_reading_ends_after_what_is_unread_and_again() -> None:
    stream = EventStream(anywhere)
    stream.put(numbered(1))
    assert await rest_of(stream) == [numbered(1)]
    assert await rest_of(stream) == []


async def test_cancelled_at_any_step_nothing_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    stream, got = EventStream(anywhere), list[Event]()
    for number in range(100):
        with trio.move_on_after(1) as waiting:
            await anext(stream)
        assert waiting.cancelled_caught
        stream.put(numbered(number))
        if number % 2:
            with trio.CancelScope() as cancelled:
                cancelled.cancel()
                got.append(await anext(stream))
            assert cancelled.cancelled_caught
        got.append(await anext(stream))
    assert got == [numbered(number) for number in range(100)]


async def test_cancelled_in_the_middle_of_what_is_unread_nothing_is_lost() -> None:
    stream = EventStream(anywhere)
    for number in range(3):
        stream.put(numbered(number))
    assert await anext(stream) == numbered(0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(stream)
        raise AssertionError("it looks whether it is cancelled, at every event")
    assert await rest_of(stream) == [numbered(1), numbered(2)]


async def test_woken_and_cancelled_in_the_same_moment_nothing_is_lost(nursery: trio.Nursery) -> None:
    stream, scope, got = EventStream(anywhere), trio.CancelScope(), list[Event]()

    async def follow() -> None:
        with scope:
            got.append(await anext(stream))

    for number in range(2):
        scope = trio.CancelScope()
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        for step in (scope.cancel, lambda number=number: stream.put(numbered(number)))[:: 1 if number else -1]:
            step()
        await trio.testing.wait_all_tasks_blocked()
    assert got + await rest_of(stream) == [numbered(0), numbered(1)]


async def test_others_run_while_a_thousand_are_read() -> None:
    """Not once for each event, which would be too slow for a busy queue, but before each stretch of them."""
    stream, turns = EventStream(anywhere), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(20):
            for number in range(MOST_UNREAD):
                stream.put(numbered(number))
            await read(stream, MOST_UNREAD)
        assert 15 < turns < 25
        nursery.cancel_scope.cancel()


async def test_who_emits_while_reading_is_slow_waits_for_nobody() -> None:
    """No checkpoint, and what is kept does not grow."""
    emitter = Emitter()
    with emitter.subscribed(anywhere) as stream, trio.testing.assert_no_checkpoints():
        for number in range(10 * MOST_UNREAD):
            emitter.emit(numbered(number))
    assert await read(stream, 2) == [events.Dropped(count=9 * MOST_UNREAD), numbered(9 * MOST_UNREAD)]


async def test_two_readers_of_one_stream_share_it(nursery: trio.Nursery) -> None:
    stream, got = EventStream(anywhere), list[Event]()

    async def follow() -> None:
        async for event in stream:
            got.append(event)

    for _ in range(2):
        nursery.start_soon(follow)
    await trio.testing.wait_all_tasks_blocked()
    for number in range(10):
        stream.put(numbered(number))
    stream.close()
    await trio.testing.wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert got == [numbered(number) for number in range(10)]


async def test_each_subscriber_has_all_from_its_beginning_to_its_end() -> None:
    emitter = Emitter()
    with emitter.subscribed(anywhere) as first:
        emitter.emit(numbered(1))
        with emitter.subscribed(anywhere) as second:
            emitter.emit(numbered(2))
        emitter.emit(numbered(3))
    emitter.emit(numbered(4))
    assert [event async for event in first] == [numbered(1), numbered(2), numbered(3)]
    assert [event async for event in second] == [numbered(2)]


async def test_all_end_with_the_queue() -> None:
    emitter = Emitter()
    with emitter.subscribed(anywhere) as first, emitter.subscribed(anywhere) as second:
        emitter.emit(numbered(1))
        emitter.close()
        for stream in (first, second):
            assert [event async for event in stream] == [numbered(1)]


def test_what_nobody_takes_need_not_be_made(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Emitter()
    with caplog.at_level("INFO", "requeuest_trio"):
        assert not emitter.takes(events.Attempt)
        assert emitter.takes(events.JobDead)
        with emitter.subscribed(anywhere):
            assert emitter.takes(events.Attempt)
        assert not emitter.takes(events.Attempt)
    with caplog.at_level("DEBUG", "requeuest_trio"):
        assert emitter.takes(events.Attempt)


async def test_it_is_read_only_where_its_owner_says() -> None:
    def elsewhere() -> None:
        raise RuntimeError("elsewhere")

    stream = EventStream(elsewhere)
    stream.put(numbered(1))
    with pytest.raises(RuntimeError, match="elsewhere"):
        await anext(stream)
