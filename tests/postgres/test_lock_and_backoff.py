"""The connection's lock and the backoff: small parts, looked at alone."""

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio._postgres import Backoff
from requeuest_trio._postgres.lock import ConnectionLock


async def test_the_lock_is_fair() -> None:
    lock = ConnectionLock()
    order: list[int] = []

    async def use(number: int) -> None:
        async with lock:
            order.append(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery, lock:
        for number in range(5):
            nursery.start_soon(use, number)
            await trio.testing.wait_all_tasks_blocked()
        assert repr(lock) == "<ConnectionLock locked, 5 waiting>"
    assert order == list(range(5))
    assert repr(lock) == "<ConnectionLock unlocked, 0 waiting>"


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    lock = ConnectionLock()
    async with lock, trio.open_nursery() as nursery:

        async def wait() -> None:
            async with lock:
                raise AssertionError

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not lock.locked()


async def test_a_free_lock_can_be_taken_in_a_cancelled_scope() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with ConnectionLock():
            pass
    assert not scope.cancelled_caught


async def test_a_task_does_not_wait_for_itself() -> None:
    lock = ConnectionLock()
    async with lock:
        with pytest.raises(RuntimeError):
            async with lock:
                pass


async def test_another_task_may_release_it() -> None:
    lock = ConnectionLock()
    await lock.__aenter__()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lock.__aexit__, None, None, None)
    assert not lock.locked()


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
