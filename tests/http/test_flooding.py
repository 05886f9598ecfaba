"""However much work a receiver makes of an answer, others have their turn, and the answer is cut at a limit.

The receiver is a process of its own, and what is measured is this thread's own time: on a busy machine too.
"""

import gc
import gzip
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
import trio.testing
import trustme

from requeuest_trio import Config, TrioTransport
from requeuest_trio._http.exchanges import MAX_CHUNKS
from requeuest_trio._http.sender import Sender, open_sender
from requeuest_trio._http.turns import Turns
from requeuest_trio._model.outcome import Delivery
from tests.engine.test_scope_storm import AtStep
from tests.http.flooding import CHUNKED, FLOODS, GZIP, OK
from tests.http.hostile import raw_server, read_head, send, until_left
from tests.waiting import until

AT_ONCE = 8
LONGEST = 0.025
"""Seconds of computing between two turns of another task."""
PATIENT = 120.0
ENOUGH = 1.5
"""Seconds of computing in which each of hundreds of answers has had its first step, and many more."""


@contextmanager
def flooding(*arguments: str) -> Iterator[int]:
    """A receiver in a process of its own; gives its port."""
    command = [sys.executable, "-m", "tests.http.flooding", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@asynccontextmanager
async def measured() -> AsyncIterator[list[float]]:
    """The most seconds of computing between two turns of another task."""
    longest = [0.0]

    async def look() -> None:
        while True:
            before = time.thread_time()
            await trio.sleep(0.001)
            longest[0] = max(longest[0], time.thread_time() - before)

    # A collection of pytest's garbage takes longer than what is looked for.
    gc.collect()
    gc.disable()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            yield longest
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()


@asynccontextmanager
async def others_have_their_turn() -> AsyncIterator[None]:
    async with measured() as longest:
        yield
    assert longest[0] < LONGEST


async def flooded(transport: TrioTransport, url: str, at_once: int = AT_ONCE) -> list[Delivery]:
    deliveries: list[Delivery] = []

    async def one() -> None:
        deliveries.append(await send(sender, url, timeout=PATIENT, method="POST"))

    async with (
        open_sender(transport, Config(max_response_body=1_048_576)) as sender,
        others_have_their_turn(),
        trio.open_nursery() as nursery,
    ):
        for _ in range(at_once):
            nursery.start_soon(one)
    transport.close()
    return deliveries


@pytest.mark.parametrize("name", FLOODS)
async def test_flood(name: str) -> None:
    with flooding() as port:
        deliveries = await flooded(TrioTransport(), f"http://127.0.0.1:{port}/{quote(name)}")
    assert len(deliveries) == AT_ONCE
    for delivery in deliveries:
        assert "timed out" not in str(delivery.error)
        if name in {"102", "102 with bare LF", "fields", "folded lines", "lines that are no fields"}:
            assert delivery.answer is None
        else:
            assert delivery.answer is not None
            assert (delivery.answer.status, delivery.answer.truncated, delivery.answer.cut_off) == (200, True, None)


async def test_a_body_has_so_many_chunks_however_little_is_in_them() -> None:
    """It is far from its limit, and from that of what stands between them."""

    async def handle(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(CHUNKED + b"1\r\nx\r\n" * (MAX_CHUNKS + 1_000) + b"0\r\n\r\n")

    async with raw_server(handle) as server, open_sender(None, Config(max_response_body=2 * MAX_CHUNKS)) as sender:
        answer = (await send(sender, server.url)).answer
    assert answer is not None
    assert answer.truncated
    assert 0 < len(answer.body) <= MAX_CHUNKS


async def test_records_of_a_byte(authority: trustme.CA, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with flooding(str(pem)) as port:
        async with (
            open_sender(TrioTransport(ssl_context=context), Config(max_response_body=20_000)) as sender,
            others_have_their_turn(),
            trio.open_nursery() as nursery,
        ):
            for _ in range(AT_ONCE):
                nursery.start_soon(lambda: send(sender, f"https://localhost:{port}/", timeout=PATIENT))


def fields(first: int, last: int) -> bytes:
    """Short, and different in each answer, so that none has been seen before: see `_longest_with`."""
    return b"".join(b"N-%d:y\r\n" % number for number in range(first, last))


AT_ONE_STROKE: dict[str, bytes] = {
    "a long head": OK + fields(1_000, 1_990) + b"\r\n",
    "a long head with bare LF": (OK + fields(1_000, 1_900) + b"\r\n").replace(b"\r", b""),
    "heads that announce another": b"".join(
        b"HTTP/1.1 103 \r\n" + fields(first, first + 125) + b"\r\n" for first in range(1_000, 6_000, 125)
    ),
    "chunks of a byte": CHUNKED + b"1\r\nx\r\n" * 8_000,
    "a small bomb": GZIP + gzip.compress(bytes(1_000_000)),
    "a redirect": b"HTTP/1.1 302 \r\nContent-Length: 0\r\nLocation: /" + b"\xe9" * 900 + b"\r\n\r\n",
    "a redirect to a long URL": b"HTTP/1.1 302 \r\nContent-Length: 0\r\nLocation: /" + b"\xe9" * 8_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", AT_ONE_STROKE)
async def test_hundreds_of_costly_answers_in_one_moment(name: str) -> None:
    """None has gone into line yet, since all have only begun: each first step counts so many times."""
    plain = await _longest_with(OK + b"Content-Length: 0\r\n\r\n")
    costly = await _longest_with(AT_ONE_STROKE[name])
    assert costly < 3.5 * plain


async def _longest_with(answer: bytes) -> float:
    number = 200
    asked: list[socket.socket] = []

    async def handle(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await read_head(stream)
        if len(asked) == number:
            await stream.send_all(b"HTTP/1.1 204 \r\n\r\n")  # where a redirect has led
            return
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 262_144)
        asked.append(socket.fromfd(stream.socket.fileno(), socket.AF_INET, socket.SOCK_STREAM))
        if len(asked) == number:
            # Without a pause, so that the other side reads nothing before all of it is there.
            for number_of_it, sock in enumerate(asked):
                with sock:
                    sock.send(answer.replace(b"\nN-", b"\nN-%d-" % number_of_it))
                    sock.shutdown(socket.SHUT_WR)
        await until_left(stream)

    transport = TrioTransport(max_connections_per_origin=number)
    ended = 0

    async def ask(sender: Sender, url: str) -> None:
        nonlocal ended
        await send(sender, url, timeout=PATIENT, follow_redirects=True)
        ended += 1

    async with (
        raw_server(handle) as server,
        open_sender(transport, Config()) as sender,
        measured() as longest,
        trio.open_nursery() as nursery,
    ):
        for _ in range(number):
            nursery.start_soon(ask, sender, server.url)
        while len(asked) < number:  # noqa: ASYNC110 - what is waited for is computing
            await trio.sleep(0.001)
        # Each has begun long before so much has been computed, however slow the machine is; the rest is done in line.
        began = time.thread_time()
        while ended < number and time.thread_time() - began < ENOUGH:  # noqa: ASYNC110 - the same
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    transport.close()
    return longest[0]


# --- turns ------------------------------------------------------------------------------------------------------------

COSTLY = 0.002
"""Seconds that a step of a costly answer is said to have taken."""


@pytest.mark.parametrize(
    "who", [lambda _: ("a", "x"), lambda number: ("a", number), lambda number: (str(number), "x")],
    ids=["one receiver", "receivers", "channels"],
)  # fmt: skip
async def test_costly_answers_share_a_part_of_the_processor(who: Callable[[int], tuple[str, Hashable]]) -> None:
    """However many there are, however long they go on, and whoever sends them."""
    ends: list[float] = []

    async def read_costly(number: int) -> None:
        turns = Turns(*who(number))
        for _ in range(20):
            await turns.step(lambda: ends.append(trio.current_time()), took=COSTLY)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(read_costly, number)
    assert max(ends) - began >= 0.9 * 10 * 20 * COSTLY * 4


OF_ANOTHER_RECEIVER = (lambda _: ("a", "x"), ("a", "y"))
OF_ANOTHER_CHANNEL = (lambda _: ("a", "x"), ("b", "x"))
OF_A_CHANNEL_OF_MANY = (lambda number: ("a", number), ("b", "y"))


@pytest.mark.parametrize(
    ("flood", "honest", "took"),
    [
        (*OF_ANOTHER_RECEIVER, COSTLY),
        (*OF_ANOTHER_CHANNEL, COSTLY),
        (*OF_A_CHANNEL_OF_MANY, COSTLY),
        (*OF_ANOTHER_CHANNEL, 0.0),
        (*OF_A_CHANNEL_OF_MANY, 0.0),
    ],
    ids=["receiver", "channel", "channel of many", "channel, not costly", "channel of many, not costly"],
)
async def test_who_opens_many_connections_has_no_more_turns(
    flood: Callable[[int], tuple[str, Hashable]], honest: tuple[str, Hashable], took: float
) -> None:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    async def read_on(number: int) -> None:
        while True:
            turns = Turns(*flood(number))
            for _ in range(1_000):
                await turns.step(step, took=took)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(read_on, number)
        await until(lambda: steps >= 50)
        turns = Turns(*honest)
        await turns.step(lambda: None, took=took)  # from here on it is in line, as they are
        before = steps
        for _ in range(10):
            await turns.step(lambda: None, took=took)
        assert steps - before <= 10 * 3
        nursery.cancel_scope.cancel()


async def test_a_turn_that_is_cancelled_is_the_next_one_s() -> None:
    """Wherever it is: before its turn, in a pause, or in the gate."""

    async def read_on(number: int) -> None:
        turns = Turns(str(number % 3), number % 2)
        while True:
            await turns.step(lambda: None, took=COSTLY * (number % 2))

    for k in range(1, 60):
        with trio.CancelScope() as scope, AtStep(k * 7, scope.cancel):
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(read_on, number)
        assert scope.cancelled_caught
    with trio.fail_after(PATIENT):
        await Turns("0", 0).step(lambda: None, is_long=True)


async def test_one_long_answer_has_a_step_in_each_turn_of_the_loop() -> None:
    """Else a job that needs many turns waits in each of them for a step of every one. The first step is free."""
    steps = 0
    in_one_turn: list[int] = []

    def step() -> None:
        nonlocal steps
        steps += 1

    async def read_long() -> None:
        reading = Turns("a", "x")
        for _ in range(5):
            await reading.step(step)
            await trio.lowlevel.checkpoint()

    async def count_turns() -> None:
        while True:
            before = steps
            await trio.lowlevel.checkpoint()
            in_one_turn.append(steps - before)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        async with trio.open_nursery() as readers:
            for _ in range(10):
                readers.start_soon(read_long)
        nursery.cancel_scope.cancel()
    assert steps == 50
    first, second, *_ = sorted(in_one_turn, reverse=True)
    assert first <= 11  # the free ones
    assert second <= 2


def test_no_mock_clock_holds_answers_up() -> None:
    """Pauses are those of the processor, in real time: a clock that stands still would never end them."""
    steps = list[int]()

    async def main() -> None:
        turns = Turns("a", "x")
        for number in range(3):
            await turns.step(partial(steps.append, number), took=COSTLY * 10)

    trio.run(main, clock=trio.testing.MockClock())
    assert steps == [0, 1, 2]
