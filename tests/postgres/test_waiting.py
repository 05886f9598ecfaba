"""Waiting for a socket: a hand-made generator on one end of a socket pair."""

import socket
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import psycopg
import pytest
import trio
from psycopg.waiting import Ready, Wait

from requeuest_trio._postgres.waiting import SocketWaiter, run_connecting


@dataclass
class Ends:
    ours: socket.socket
    theirs: socket.socket

    @property
    def waiter(self) -> SocketWaiter:
        class FakePGconn:
            socket = self.ours.fileno()

        return SocketWaiter(cast("Any", FakePGconn()))

    def fill(self) -> None:
        """Send until no more can be sent."""
        try:
            while True:
                self.ours.send(b"x" * 65536)
        except BlockingIOError:
            pass

    def empty(self) -> None:
        """Receive all that there is."""
        try:
            while self.theirs.recv(1 << 20):
                pass
        except BlockingIOError:
            pass


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield Ends(ours, theirs)


def asking(*wants: Wait) -> Generator[Wait, int, list[int]]:
    """Ask for one thing after the other, each until it is ready; return what was."""
    got = []
    for want in wants:
        while not (ready := (yield want)):
            pass
        got.append(ready)
    return got


async def test_reading(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await trio.testing.wait_all_tasks_blocked()
            ends.theirs.send(b"!")

        assert await ends.waiter.run(asking(Wait.R)) == [Ready.R]


async def test_writing_at_once_and_after_waiting(ends: Ends) -> None:
    assert await ends.waiter.run(asking(Wait.W)) == [Ready.W]
    ends.fill()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def receive() -> None:
            await trio.testing.wait_all_tasks_blocked()
            ends.empty()

        assert await ends.waiter.run(asking(Wait.W)) == [Ready.W]


@pytest.mark.parametrize("direction", [Ready.R, Ready.W])
async def test_either_whichever_comes_first(ends: Ends, direction: Ready) -> None:
    ends.fill()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def act() -> None:
            await trio.testing.wait_all_tasks_blocked()
            ends.theirs.send(b"!") if direction == Ready.R else ends.empty()

        assert await ends.waiter.run(asking(Wait.RW)) == [direction]


async def test_either_when_both_are_ready(ends: Ends) -> None:
    ends.theirs.send(b"!")
    assert await ends.waiter.run(asking(Wait.RW)) == [Ready.RW]


@pytest.mark.parametrize("want", list(Wait))
async def test_cancelled_it_can_be_taken_up_again(ends: Ends, want: Wait) -> None:
    ends.fill()
    gen = asking(want)
    waiter = ends.waiter
    for _ in range(2):
        with trio.move_on_after(0.01) as scope:
            await waiter.run(gen)
        assert scope.cancelled_caught
    ends.theirs.send(b"!")
    ends.empty()
    assert len(await waiter.run(gen)) == 1


@pytest.mark.parametrize("want", list(Wait))
async def test_a_close_that_trio_is_told_of_ends_the_wait(ends: Ends, want: Wait) -> None:
    ends.fill()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def close() -> None:
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.notify_closing(ends.ours.fileno())

        with pytest.raises(psycopg.OperationalError, match="closed"):
            await ends.waiter.run(asking(want))


async def test_a_bad_file_descriptor_is_an_operational_error(ends: Ends) -> None:
    waiter = ends.waiter
    ends.ours.close()
    with pytest.raises(psycopg.OperationalError):
        await waiter.run(asking(Wait.R))


async def test_a_closed_peer_makes_the_socket_ready(ends: Ends) -> None:
    ends.theirs.close()
    assert await ends.waiter.run(asking(Wait.R, Wait.W, Wait.RW)) == [Ready.R, Ready.W, Ready.RW]


async def test_interval_resumes_the_generator_with_nothing(ends: Ends) -> None:
    def impatient() -> Generator[Wait, int, int]:
        return (yield Wait.R)

    assert await ends.waiter.run(impatient(), interval=0.01) == Ready.NONE


async def test_without_an_interval_nothing_wakes_it(ends: Ends) -> None:
    resumed = 0

    def counting() -> Generator[Wait, int, None]:
        nonlocal resumed
        while True:
            yield Wait.R
            resumed += 1

    with trio.move_on_after(0.3):
        await ends.waiter.run(counting())
    assert resumed == 0


async def test_looking_first_does_not_wait_for_what_is_there(ends: Ends) -> None:
    ends.theirs.send(b"!")
    with trio.move_on_after(0) as scope:
        assert await ends.waiter.run(asking(Wait.R), try_first=True) == [Ready.R]
    assert not scope.cancelled_caught


async def test_a_socket_that_is_always_ready_neither_starves_others_nor_escapes_cancellation(ends: Ends) -> None:
    def endless() -> Generator[Wait, int, None]:
        while True:
            yield Wait.W

    turns = 0
    with trio.move_on_after(0.2) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.waiter.run, endless())
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1
    assert scope.cancelled_caught
    assert turns > 5


async def test_end_turn_is_a_schedule_point_only_if_needed(ends: Ends) -> None:
    waiter = ends.waiter
    await waiter.run(asking())
    with trio.testing.assert_checkpoints():
        await waiter.end_turn(at_once=True)
        await trio.lowlevel.checkpoint_if_cancelled()
    with trio.testing.assert_no_checkpoints():
        await waiter.end_turn(at_once=True)
    await waiter.run(asking())
    with trio.testing.assert_no_checkpoints():
        await waiter.end_turn(at_once=False)


async def test_connecting_follows_a_changing_socket_and_closes_its_generator(ends: Ends) -> None:
    closed = False

    def connecting() -> Generator[tuple[int, Wait], int, str]:
        nonlocal closed
        try:
            assert (yield ends.ours.fileno(), Wait.W) == Ready.W
            assert (yield ends.theirs.fileno(), Wait.W) == Ready.W
            yield ends.theirs.fileno(), Wait.R
        finally:
            closed = True
        return "connected"

    with trio.move_on_after(0.01) as scope:
        await run_connecting(connecting())
    assert scope.cancelled_caught
    assert closed
    ends.ours.send(b"!")
    assert await run_connecting(connecting()) == "connected"
