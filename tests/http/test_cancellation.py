"""A sending that is cancelled, wherever it stands: no task and no socket of it is left, and the next one works."""

import contextlib
import gc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import httpx2
import pytest
import trio
import trio.testing

from requeuest_trio import Reached, Request, TrioTransport
from requeuest_trio._http.sender import Sender, open_sender
from requeuest_trio._http.wire.message import Message, head_of, target_of
from requeuest_trio.testing import Receiver, Reply, open_receiver
from tests.http.hostile import SMALL, raw_server, read_head, send, send_request

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


def stops_after(answer: bytes | None) -> tuple[Callable[[trio.abc.Stream], Awaitable[None]], trio.Event]:
    """A handler that stops answering somewhere, and the event of having come there."""
    reached = trio.Event()

    async def handle(stream: trio.abc.Stream) -> None:
        if answer is not None:
            await read_head(stream)
            await stream.send_all(answer)
        reached.set()
        while await stream.receive_some():
            pass

    return handle, reached


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [
        pytest.param("https", None, id="in the TLS handshake"),
        pytest.param("http", b"", id="before the status"),
        pytest.param("http", b"HTTP/1.1 200", id="in the status line"),
        pytest.param("http", HEAD, id="before the body"),
        pytest.param("http", HEAD + b"half", id="in the body"),
    ],
)
async def test_cancelled_at_a_point(sender: Sender, receiver: Receiver, scheme: str, answer: bytes | None) -> None:
    handle, reached = stops_after(answer)
    async with raw_server(handle) as server, trio.open_nursery() as nursery:
        nursery.start_soon(send, sender, server.url.replace("http", scheme))
        await reached.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    await server.wait_empty()
    assert (await send(sender, receiver.url)).error is None


async def test_cancelled_in_the_moment_in_which_it_may_go_on_nothing_is_sent(receiver: Receiver) -> None:
    """After a standstill both come true: there is a connection, and there is no time."""
    transport = TrioTransport(max_connections=1)
    message = Message(target_of(receiver.url).origin, "GET", head_of("GET", b"/", b"receiver", b""), b"")
    connection = await transport.exchange(message, ignore)
    await connection.receive_piece()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.exchange, message, ignore)
        await trio.testing.wait_all_tasks_blocked()
        transport.release(connection)
        nursery.cancel_scope.cancel()
    assert (transport.statistics().open, len(receiver.arrivals)) == (0, 1)
    transport.close()


def ignore(_: Reached) -> None:
    """How far it has come."""


@pytest.mark.parametrize("library", [None, httpx, httpx2])
async def test_cancelled_at_any_time(receiver: Receiver, library: Any) -> None:
    """A storm: the cancellation strikes after every possible number of steps of the scheduler."""
    async with contextlib.AsyncExitStack() as stack:
        client = None if library is None else library.AsyncClient(trust_env=False)
        if client is not None:
            await stack.enter_async_context(client)
        sender = await stack.enter_async_context(open_sender(client, SMALL))
        receiver.decide = lambda _: Reply(body=b"x" * 150_000)
        for steps in range(60):
            before = trio.lowlevel.current_statistics().tasks_living
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send, sender, receiver.url + f"/{steps}")
                    for _ in range(steps):
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    scope.cancel()
            assert trio.lowlevel.current_statistics().tasks_living <= before + 1  # the receiver's, of a new connection
        delivery = await send(sender, receiver.url + "/last")
        assert delivery.answer is not None
        assert delivery.answer.status == 200


async def test_no_socket_is_left_to_the_garbage_collector() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle, _ = stops_after(None)
        async with open_sender(None, SMALL) as sender, raw_server(handle) as server, open_receiver() as receiver:
            for timeout in (0.01, 0.03):
                await send(sender, server.url.replace("http", "https"), timeout=timeout)
                await send(sender, server.url, timeout=timeout)
            receiver.script(Reply(body=b"x" * 500_000))
            await send(sender, receiver.url)
            await server.wait_empty()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


class Nested(httpx2.AsyncBaseTransport):
    """A transport with a nursery of its own, of which something breaks when it is cancelled."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        async def breaks() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("broken on the way out")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks)
            nursery.start_soon(trio.sleep_forever)
        raise AssertionError(request)


async def test_deadline_over_a_transport_with_a_nursery() -> None:
    """Its errors come out as a group with the deadline's `Cancelled`, and must not pass for more than a failure."""
    async with open_sender(Nested(), SMALL) as sender:
        delivery = await send(sender, "http://h/", timeout=0.05)
    assert (delivery.answer, delivery.reached) == (None, Reached.SENT)
    assert delivery.error == "timed out after 0.05 s"


async def test_cancelling_a_transport_with_a_nursery() -> None:
    async with open_sender(Nested(), SMALL) as sender:
        with trio.move_on_after(0.05) as scope:
            request = Request.get("http://h/")
            await send_request(sender, request)
    assert scope.cancelled_caught
