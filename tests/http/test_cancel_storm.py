"""Every kind of request, cancelled at each of its checkpoints in turn, and many at random.

Whatever the checkpoint: no place, no socket and no task is left behind, and the next request works.
"""

import os
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx2
import pytest
import trio

from requeuest_trio import Request, TrioTransport
from requeuest_trio._http.net.pool import ConnectionStatistics
from requeuest_trio._http.sender import Sender, open_sender
from requeuest_trio.testing import Receiver, Reply
from tests.http.hostile import PATIENT, SHORT, SMALL, raw_server, send_request
from tests.http.recording import OK, Recorder, recorder
from tests.postgres.harness import AtCheckpoint, open_fds

MOST_CHECKPOINTS = 300
LARGE = b"x" * 3_000_000
CLOSES = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
CHUNK = b"fff\r\n%b\r\n" % (b"x" * 4_095)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK * 100 + b"0\r\n\r\n"

Operation = Callable[[httpx2.AsyncClient, Recorder], Awaitable[None]]
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


class Slow(httpx2.AsyncByteStream):
    """A body that has checkpoints of its own."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            yield b"piece" * 20_000


@operation
async def fresh(client: httpx2.AsyncClient, record: Recorder) -> None:
    record.answer = lambda _: CLOSES
    await client.get(record.url)


@operation
async def by_name(client: httpx2.AsyncClient, record: Recorder) -> None:
    record.answer = lambda _: CLOSES
    await client.get(record.url.replace("127.0.0.1", "localhost"))


@operation
async def reused(client: httpx2.AsyncClient, record: Recorder) -> None:
    for _ in range(3):
        await client.get(record.url)


@operation
async def reused_too_late(client: httpx2.AsyncClient, record: Recorder) -> None:
    """The server closes instead of an answer: the request is sent once more."""
    await client.get(record.url)
    answers = [OK, b""]
    record.answer = lambda _: answers.pop()
    await client.get(record.url)


@operation
async def chunked(client: httpx2.AsyncClient, record: Recorder) -> None:
    record.answer = lambda _: CHUNKED
    await client.get(record.url)


@operation
async def read_in_part(client: httpx2.AsyncClient, record: Recorder) -> None:
    record.answer = lambda _: CHUNKED
    # Past the client, whose own generators can be left to the garbage collector only.
    response = await client._transport.handle_async_request(client.build_request("GET", record.url))
    try:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        await anext(aiter(response.stream))
    finally:
        await response.aclose()


@operation
async def large_body(client: httpx2.AsyncClient, record: Recorder) -> None:
    await client.post(record.url, content=LARGE)


@operation
async def streamed_body(client: httpx2.AsyncClient, record: Recorder) -> None:
    await client.post(record.url, content=Slow())


@operation
async def many_at_once(client: httpx2.AsyncClient, record: Recorder) -> None:
    """More than there may be connections."""
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(client.get, record.url)
        await client.get(record.url)


@pytest.fixture(params=["http", "https"])
def tls(
    request: pytest.FixtureRequest, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> tuple[ssl.SSLContext | None, ssl.SSLContext]:
    return (None if request.param == "http" else server_tls), client_tls


def beyond_idle(transport: TrioTransport) -> tuple[int, int]:
    """Descriptors and tasks of this process; without two sockets, and the server's task, for each idle connection."""
    idle = transport.statistics().idle
    return open_fds() - 2 * idle, trio.lowlevel.current_statistics().tasks_living - idle


async def until_at_rest(transport: TrioTransport, before: tuple[int, int]) -> None:
    """Until the server too has closed what the transport has left."""
    with trio.fail_after(5):
        while beyond_idle(transport) != before:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.001)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_every_checkpoint(name: str, tls: tuple[ssl.SSLContext | None, ssl.SSLContext]) -> None:
    server_side, client_side = tls
    transport = TrioTransport(ssl_context=client_side, max_connections=2)
    async with AsyncExitStack() as stack:
        record = await stack.enter_async_context(recorder(tls=server_side))
        client = await stack.enter_async_context(httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None))
        await client.get(record.url.replace("127.0.0.1", "localhost"))  # Trio's thread for lookups stays
        before = beyond_idle(transport)
        for k in range(MOST_CHECKPOINTS):
            record.answer = lambda _: OK
            with trio.fail_after(10), trio.CancelScope() as scope, AtCheckpoint(k, scope.cancel):
                if k == 0:
                    scope.cancel()
                await OPERATIONS[name](client, record)
            seen = transport.statistics()
            assert seen == ConnectionStatistics(open=seen.idle, idle=seen.idle, waiting=0)
            await until_at_rest(transport, before)
            record.answer = lambda _: OK
            assert (await client.get(record.url)).text == "ok"
            if k > 0 and not scope.cancel_called:
                break
        else:
            pytest.fail(f"not through after {k} checkpoints")
        assert k > 1


ENOUGH = 100


async def test_churn(receiver: Receiver) -> None:
    """Forty tasks over ten places, cancelled whenever: afterwards all is as if nothing had been."""
    chance = random.Random(os.environ.get("PYTEST_XDIST_WORKER", "0"))
    transport = TrioTransport(max_connections=10)
    receiver.decide = lambda _: Reply(body=b"x" * 50_000, delay=chance.random() * 0.005)
    request = Request.post(receiver.url, content=b"y" * 10_000)
    done = cancelled = 0

    async def churn(sender: Sender) -> None:
        nonlocal done, cancelled
        while trio.current_time() < end or min(done, cancelled) < ENOUGH:
            with trio.move_on_after(chance.random() * 0.2) as scope:
                delivery = await send_request(sender, request, timeout=PATIENT)
                assert delivery.error is None
                done += 1
            cancelled += scope.cancelled_caught

    async def one(sender: Sender) -> None:
        delivery = await send_request(sender, request, timeout=PATIENT)
        assert delivery.error is None

    async with open_sender(transport, SMALL) as sender:
        end = trio.current_time() + 2.0
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(churn, sender)
        seen = transport.statistics()
        assert seen == ConnectionStatistics(open=seen.idle, idle=seen.idle, waiting=0)

        receiver.decide = lambda _: None
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one, sender)
        seen = transport.statistics()
        assert (seen.open - seen.idle, seen.waiting) == (0, 0)
        assert 1 <= seen.idle <= 10
    transport.close()
    assert transport.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)


async def test_deadline_strikes_in_the_middle_of_sending() -> None:
    """Of a body that nobody reads: what was sent of it must not be taken for the next request."""

    async def ignore(_: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    transport = TrioTransport(deadline=SHORT)
    async with httpx2.AsyncClient(transport=transport, timeout=None) as client, raw_server(ignore) as server:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(server.url, content=b"x" * 10_000_000)
        assert transport.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)
