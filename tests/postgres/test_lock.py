"""The connection's lock."""

import pytest
import trio

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
