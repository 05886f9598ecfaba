"""
Promise 6: a runner lives as long as its block, and leaves nothing behind, however that ends.

What could go wrong, and is tried here: leaving while attempts run, or while an outcome is known but not recorded; an
error of the user's that is wrapped, replaced or given another context on its way out; an error of the library's that
does not end the block; cancellation while opening, draining or finishing; callers in other tasks that wait for ever.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from uuid import uuid4

import anyio
import pytest
import trio
import trio.lowlevel

from requeuest_trio import Client, JobState, Reached, Request, RequeuestError, RetryPolicy, open_requeuest
from requeuest_trio._engine import attempt
from requeuest_trio._engine.recorder import Recorder
from requeuest_trio._store.store import Store
from requeuest_trio.testing import Receiver, Reply, Stall
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.waiting import until


async def test_running_attempts_finish_within_grace_and_are_recorded(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(*[Reply(delay=0.3)] * 5)
    async with nothing_left(probe):
        async with open_requeuest(probe.dsn) as client:
            await client.spawn_many("a", [Request.get(receiver.url)] * 5)
            await receiver.wait_for(5)
        assert await probe.states() == {"succeeded": 5}


async def test_what_is_longer_than_grace_is_given_back_uncounted(
    probe: QueueProbe, receiver: Receiver, log: Log
) -> None:
    receiver.script(Stall(), target="/stall")
    async with nothing_left(probe):
        async with open_requeuest(probe.dsn, grace=0.3) as client:
            stalled = await client.spawn("a", Request.get(receiver.url + "/stall"))
            quick = await client.spawn("a", Request.get(receiver.url + "/quick"))
            await receiver.wait_for(2)
            await client.wait(quick)
            left_at = trio.current_time()
        assert 0.25 < trio.current_time() - left_at < 3
        assert await probe.job(stalled) == ("available", 0, None)
        assert log.fields("closed") == [{"released": 1}]


async def test_nothing_new_is_claimed_while_draining(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.script(Reply(delay=0.5), target="/slow")
    async with nothing_left(probe):
        async with open_requeuest(probe.dsn, concurrency=1) as client:
            await client.spawn("a", Request.get(receiver.url + "/slow"))
            await client.spawn_many("a", [Request.get(receiver.url + "/next")] * 3)
            await receiver.wait_for(1)
        assert await probe.states() == {"succeeded": 1, "available": 3}
        assert len(receiver.arrivals) == 1


async def test_leaving_an_empty_queue_is_quick(probe: QueueProbe) -> None:
    async with nothing_left(probe):
        with trio.fail_after(3):
            async with open_requeuest(probe.dsn, grace=600):
                pass


async def test_a_client_that_only_enqueues_leaves_at_once(probe: QueueProbe) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, (), grace=600) as client:
        await client.spawn("a", Request.get("http://localhost/"))
    assert await probe.states() == {"available": 1}


@pytest.mark.parametrize("how", ["scope", "deadline"])
async def test_cancelling_gives_back_at_once(probe: QueueProbe, receiver: Receiver, how: str) -> None:
    receiver.decide = lambda _: Stall()
    async with nothing_left(probe):
        with trio.CancelScope() as scope:
            async with open_requeuest(probe.dsn, grace=600) as client:
                await client.spawn_many("a", [Request.get(receiver.url)] * 8)
                await receiver.wait_for(8)
                if how == "scope":
                    scope.cancel()
                else:
                    scope.deadline = trio.current_time() + 0.05
                cancelled_at = trio.current_time()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() - cancelled_at < 3
        assert await probe.rows("select distinct state::text, attempts from requeuest.job") == [("available", 0)]


async def test_known_outcomes_are_recorded_when_cancelled(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: Recorder) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Recorder, "run", hang)
    async with nothing_left(probe):
        with trio.CancelScope() as scope:
            async with open_requeuest(probe.dsn) as client:
                await client.spawn_many("a", [Request.get(receiver.url)] * 5)
                await until(lambda: repr(client).endswith("0 running, 5 unrecorded>"))
                scope.cancel()
                await trio.sleep_forever()
        assert await probe.states() == {"succeeded": 5}


async def _with_attempts_running(
    probe: QueueProbe, receiver: Receiver, ending: Callable[[Client], Awaitable[object]]
) -> None:
    receiver.decide = lambda _: Stall()
    async with open_requeuest(probe.dsn) as client:
        await client.spawn_many("a", [Request.get(receiver.url)] * 3)
        await receiver.wait_for(3)
        await ending(client)


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_the_users_exception_comes_out_as_it_is(
    probe: QueueProbe, receiver: Receiver, kind: type[BaseException]
) -> None:
    error, cause, context = kind("mine"), ValueError("cause"), ValueError("context")

    async def fail(_: Client) -> None:
        try:
            raise context
        except ValueError:
            raise error from cause

    async with nothing_left(probe):
        with pytest.raises(kind) as caught:
            await _with_attempts_running(probe, receiver, fail)
        assert caught.value is error
        assert error.__cause__ is cause
        assert error.__context__ is context
        assert await probe.rows("select distinct state::text, attempts from requeuest.job") == [("available", 0)]


async def test_the_users_exception_without_a_context_gets_none(probe: QueueProbe) -> None:
    error = KeyError("mine")
    async with nothing_left(probe):
        with pytest.raises(KeyError) as caught:
            async with open_requeuest(probe.dsn):
                raise error
        assert caught.value is error
        assert error.__context__ is None
        assert error.__cause__ is None


@pytest.mark.parametrize("members", [[KeyError("mine")], [KeyError("mine"), ValueError("mine too")]])
async def test_the_users_group_comes_out_as_it_is(probe: QueueProbe, members: list[Exception]) -> None:
    error = ExceptionGroup("mine", members)
    async with nothing_left(probe):
        with pytest.raises(ExceptionGroup) as caught:
            async with open_requeuest(probe.dsn):
                raise error
        assert caught.value is error


@pytest.mark.parametrize("outer", ["no", "cancelled"])
async def test_the_users_exception_wins_over_cancellation(probe: QueueProbe, receiver: Receiver, outer: str) -> None:
    """The scope around is cancelled, and the user's code makes an error of it: that one must not get lost."""
    error = KeyError("mine")

    async def fail(_: Client) -> None:
        try:
            scope.cancel()
            await trio.sleep_forever()
        finally:
            if outer == "no":
                scope.shield = True
            raise error

    async with nothing_left(probe):
        with pytest.raises(KeyError) as caught, trio.CancelScope() as scope:
            await _with_attempts_running(probe, receiver, fail)
        assert caught.value is error


async def test_cancellation_in_nurseries_of_the_users_does_not_wrap_an_error(probe: QueueProbe) -> None:
    error = KeyError("mine")

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    async with nothing_left(probe):
        with trio.CancelScope() as scope, pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with open_requeuest(probe.dsn), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail)
        assert not scope.cancelled_caught
        assert list(caught.value.exceptions) == [error]


async def test_two_errors_come_out_as_a_group(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, ours = KeyError("mine"), RuntimeError("a bug")
    monkeypatch.setattr(Store, "heartbeat", _raising(ours))
    async with nothing_left(probe):
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with open_requeuest(probe.dsn, lease=1) as client:
                await client.spawn("a", Request.get(receiver.url))
                try:
                    await trio.sleep_forever()
                finally:
                    raise mine
        assert set(caught.value.exceptions) == {mine, ours}


def _raising(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError()], ids=["bug", "memory"])
@pytest.mark.parametrize("place", ["judge", "Progress", "_added_headers"])
async def test_an_error_in_an_attempt_is_that_attempts_alone(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    """Wherever it is raised: it counts, since the request may have been sent, and the others go on."""
    real, times = getattr(attempt, place), 0

    def fail_at_first(*args: object, **options: object) -> object:
        nonlocal times
        times += 1
        if times <= 2:
            raise error
        return real(*args, **options)

    async with nothing_left(probe), open_requeuest(probe.dsn) as client:
        monkeypatch.setattr(attempt, place, fail_at_first)
        retried = await client.spawn("a", Request.get(receiver.url))
        await probe.until_true("select state = 'available' and attempts = 1 from requeuest.job where id = %s", retried)
        last = await client.spawn("a", Request.get(receiver.url), retry=RetryPolicy(max_attempts=1))
        await probe.until_true("select state = 'dead' from requeuest.job where id = %s", last)
        await client.spawn_returning("a", Request.get(receiver.url))
        assert [(each.number, each.reached) for each in await client.attempts(retried)] == [(1, Reached.SENT)]
        assert type(error).__name__ in str((await client.attempts(retried))[0].error)


@pytest.mark.parametrize("error", [KeyboardInterrupt()])
async def test_an_interrupt_in_an_attempt_ends_the_block_with_it_bare(
    probe: QueueProbe, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """In an attempt, which runs deepest: a nursery for each channel inside that of the block."""
    receiver.script(*[Stall()] * 3, target="/stall")
    monkeypatch.setattr(attempt, "judge", _raising(error))
    async with nothing_left(probe):
        with pytest.raises(type(error)) as caught:  # noqa: PT012
            async with open_requeuest(probe.dsn) as client:
                await client.spawn_many("a", [Request.get(receiver.url + "/stall")] * 3)
                await receiver.wait_for(3)
                await client.spawn("a", Request.get(receiver.url))
                await trio.sleep_forever()
        assert caught.value is error
        assert await probe.rows("select distinct state::text, attempts from requeuest.job") == [("available", 0)]


async def test_an_error_of_ours_in_a_service_ends_the_block_too(
    probe: QueueProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("a bug")
    monkeypatch.setattr(Store, "heartbeat", _raising(error))
    async with nothing_left(probe):
        with pytest.raises(RuntimeError) as caught:
            async with open_requeuest(probe.dsn, lease=1):
                await trio.sleep_forever()
        assert caught.value is error


async def test_calls_after_the_block_and_calls_that_wait_are_told(probe: QueueProbe, receiver: Receiver) -> None:
    receiver.decide = lambda _: Stall()
    ended: list[str] = []

    async def expect_closed(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call()
        ended.append(name)

    async with nothing_left(probe), trio.open_nursery() as nursery:
        async with open_requeuest(probe.dsn, grace=0) as client:
            job_id = await client.spawn("a", Request.get(receiver.url))
            request = Request.get(receiver.url)
            nursery.start_soon(expect_closed, "wait", partial(client.wait, job_id))
            nursery.start_soon(expect_closed, "result", partial(client.result, job_id))
            nursery.start_soon(expect_closed, "returning", partial(client.spawn_returning, "a", request))
            await receiver.wait_for(2)
        with trio.fail_after(3):
            await until(lambda: sorted(ended) == ["result", "returning", "wait"])
        for call in (
            partial(client.spawn, "a", request),
            partial(client.spawn_many, "a", [request]),
            partial(client.spawn_returning, "a", request),
            partial(client.wait, job_id),
            partial(client.result, job_id),
            partial(client.job, job_id),
            partial(client.attempts, job_id),
            partial(client.clear, ["a"]),
            client.stats,
            lambda: anext(client.jobs()),
            lambda: client.transaction().__aenter__(),
        ):
            await expect_closed("after", call)
    assert "closed" in repr(client)


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "spawn": lambda client: client.spawn("a", Request.get("http://localhost/")),
    "spawn_many": lambda client: client.spawn_many("a", [Request.get("http://localhost/")]),
    "job": lambda client: client.job(uuid4()),
    "wait": lambda client: client.wait(uuid4()),
    "stats": lambda client: client.stats(),
    "clear": lambda client: client.clear(["a"]),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_in_the_middle_of_a_statement_is_told(probe: QueueProbe, name: str) -> None:
    async def call(client: Client) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await CALLS[name](client)

    async with trio.open_nursery() as nursery, probe.connection.transaction():
        await probe.connection.execute("lock table requeuest.job in access exclusive mode")
        async with open_requeuest(probe.dsn, ()) as client:
            nursery.start_soon(call, client)
            await probe.until_true("select count(*) from pg_locks where not granted")

        async def alone() -> bool:
            return not await probe.sessions()

        await until(alone)


async def test_two_clients_in_one_process(probe: QueueProbe, receiver: Receiver) -> None:
    async with nothing_left(probe):
        async with open_requeuest(probe.dsn, ["a"]) as first, open_requeuest(probe.dsn, ["b"]) as second:
            there = await first.spawn("b", Request.get(receiver.url + "/b"))
            here = await second.spawn("a", Request.get(receiver.url + "/a"))
            assert (await first.wait(there)).state is JobState.SUCCEEDED
            assert (await second.result(here)).status_code == 200
        assert await probe.states() == {"succeeded": 2}


async def test_in_a_task_group_of_anyio(probe: QueueProbe, receiver: Receiver) -> None:
    error = KeyError("mine")

    async def serve() -> None:
        async with open_requeuest(probe.dsn) as client:
            await client.spawn_returning("a", Request.get(receiver.url))
            raise error

    async with nothing_left(probe):
        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                group.start_soon(serve)
        assert caught.value.exceptions == (error,)

        async with anyio.create_task_group() as group:
            async with open_requeuest(probe.dsn) as client:
                await client.spawn_returning("a", Request.get(receiver.url))
            group.cancel_scope.cancel()


def test_under_anyio_run(migrated_dsn: str) -> None:
    async def main() -> int:
        async with open_requeuest(migrated_dsn, channels := ["a"]) as client:
            await client.spawn("a", Request.get("http://127.0.0.1:9/"), retry=RetryPolicy(max_attempts=1))
            return len(channels)

    assert anyio.run(main, backend="trio") == 1


def test_on_another_loop_there_is_one_clear_sentence(migrated_dsn: str) -> None:
    async def main() -> None:
        async with open_requeuest(migrated_dsn):
            pass

    with pytest.raises(RequeuestError, match=r"on Trio only, .* trio\.run\(main\) or anyio\.run\(main"):
        anyio.run(main, backend="asyncio")
    with pytest.raises(RequeuestError, match="runs on Trio only"):
        main().send(None)
