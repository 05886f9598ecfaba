"""
A client belongs to the Trio run and the process that opened it.

What could go wrong: a call from a thread, from another event loop or from a forked child that ends or hangs the owner's
run, or writes to its connections; a call that hangs where it was made; a new public method that nobody thought of here.
"""

import asyncio
import inspect
import os
import pickle
import signal
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from types import FunctionType
from typing import Any
from uuid import uuid4

import pytest
import trio

from requeuest_trio import Client, Request, RequeuestError, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe

_REQUEST = Request.get("http://localhost/")
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "attempts": (uuid4(),),
    "clear": (["a"],),
    "close": (),
    "events": (),
    "job": (uuid4(),),
    "jobs": (),
    "result": (uuid4(),),
    "spawn": ("a", _REQUEST),
    "spawn_many": ("a", [_REQUEST]),
    "spawn_returning": ("a", _REQUEST),
    "stats": (),
    "transaction": (),
    "wait": (uuid4(),),
}
METHODS = [name for name, member in vars(Client).items() if not name.startswith("_") and callable(member)]
Outcome = str | None


def test_no_method_is_forgotten() -> None:
    assert sorted(METHODS) == sorted(_ARGUMENTS)
    assert all(isinstance(member, FunctionType) for name, member in vars(Client).items() if not name.startswith("_"))


async def _use(made: object) -> None:
    """What a caller does with what a method returns."""
    if isinstance(made, AbstractAsyncContextManager):
        await made.__aenter__()
    elif isinstance(made, AsyncIterator):
        await anext(made)
    elif inspect.isawaitable(made):
        await made


async def _call(client: Client, name: str) -> None:
    await _use(getattr(client, name)(*_ARGUMENTS[name]))


def _step(make: Callable[[], Awaitable[None]]) -> None:
    """Begin an async call where there is no event loop: it has to raise before it waits for anything."""
    coroutine: Any = make()
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    pytest.fail("it waits")


def _in_a_thread(run: Callable[[], None]) -> BaseException | None:
    """What the call raises in a thread that Trio knows nothing of, and that has to end soon."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run()
        except BaseException as error:  # noqa: ASYNC103 - passed on
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the call hangs"
    return raised[0] if raised else None


def _in_a_child(run: Callable[[], None]) -> BaseException | None:
    """The same in a forked process, which then ends without a word."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that the child has not: that is the point
        child = os.fork()
    if child == 0:
        try:
            raised: BaseException | None = None
            try:
                run()
            except BaseException as error:  # noqa: ASYNC103 - passed on
                raised = error
            os.write(writing, pickle.dumps(raised))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        raised = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    return raised


def another_trio_run(make: Callable[[], Awaitable[None]]) -> BaseException | None:
    return _in_a_thread(lambda: trio.run(make))


def a_thread_without_trio(make: Callable[[], Awaitable[None]]) -> BaseException | None:
    return _in_a_thread(lambda: _step(make))


def an_asyncio_loop(make: Callable[[], Awaitable[None]]) -> BaseException | None:
    async def main() -> None:
        await make()

    return _in_a_thread(lambda: asyncio.run(main()))


def a_forked_child(make: Callable[[], Awaitable[None]]) -> BaseException | None:
    """It is in the middle of its parent's Trio run."""
    return _in_a_child(lambda: _step(make))


def a_forked_child_with_a_trio_run_of_its_own(make: Callable[[], Awaitable[None]]) -> BaseException | None:
    def run() -> None:
        signal.set_wakeup_fd(-1)  # that of the run that was left behind, of which Trio would warn
        trio.run(make)

    return _in_a_thread(lambda: _raise(_in_a_child(run)))


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


PLACES = [
    another_trio_run,
    a_thread_without_trio,
    an_asyncio_loop,
    a_forked_child,
    a_forked_child_with_a_trio_run_of_its_own,
]


def _refused(error: BaseException | None) -> bool:
    return type(error) is RequeuestError and "trio.from_thread.run" in str(error)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_every_call_from_elsewhere_raises_at_once_and_the_owner_goes_on(
    place: Callable[[Callable[[], Awaitable[None]]], BaseException | None], probe: QueueProbe, receiver: Receiver
) -> None:
    async with open_requeuest(probe.dsn) as client:
        await client.spawn_returning("a", Request.get(receiver.url))
        backends = await _backends(probe)
        for name in METHODS:
            assert _refused(place(lambda name=name: _call(client, name))), name  # type: ignore[misc]
        assert await _backends(probe) >= backends
        await client.spawn_returning("a", Request.get(receiver.url))
        async with client.transaction() as connection:
            await client.spawn("b", Request.get(receiver.url), connection=connection)
        await receiver.wait_for(3)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_what_was_made_by_the_owner_is_of_no_use_elsewhere(
    place: Callable[[Callable[[], Awaitable[None]]], BaseException | None], probe: QueueProbe
) -> None:
    async with open_requeuest(probe.dsn, ()) as client, client.events() as stream:
        await client.spawn_many("a", [_REQUEST] * 300)
        counting = client.stats()
        async with aclosing(client.jobs()) as fresh, aclosing(client.jobs()) as begun:  # type: ignore[type-var]
            for _ in range(250):
                await anext(begun)
            for made in (client.transaction(), client.events(), stream, counting, fresh, begun):
                assert _refused(place(lambda made=made: _use(made)))  # type: ignore[misc]
        counting.close()  # the parent's, where the one that raised was a child's
        assert len([job async for job in client.jobs()]) == 300


async def test_the_remedy_works(probe: QueueProbe, receiver: Receiver) -> None:
    """From a thread of Trio's, from any other thread, and from an asyncio loop in one."""
    async with open_requeuest(probe.dsn) as client:
        await trio.to_thread.run_sync(lambda: trio.from_thread.run(client.spawn, "a", Request.get(receiver.url)))
        token, ended = trio.lowlevel.current_trio_token(), trio.Event()

        def elsewhere() -> None:
            async def main() -> None:
                await asyncio.to_thread(spawn)

            def spawn() -> None:
                trio.from_thread.run(client.spawn, "a", Request.get(receiver.url), trio_token=token)

            spawn()
            asyncio.run(main())
            trio.from_thread.run_sync(ended.set, trio_token=token)

        threading.Thread(target=elsewhere, daemon=True).start()
        await ended.wait()
        await receiver.wait_for(3)


async def test_a_closed_client_says_so_first(probe: QueueProbe) -> None:
    async with open_requeuest(probe.dsn, ()) as client:
        pass
    for name in METHODS:
        if name != "close":
            with pytest.raises(trio.ClosedResourceError):
                await _call(client, name)


async def _backends(probe: QueueProbe) -> set[int]:
    """The sessions of the client, told apart from the probe's own."""
    rows = await probe.rows(
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend'"
    )
    return {int(pid) for (pid,) in rows}
