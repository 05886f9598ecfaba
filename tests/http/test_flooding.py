"""However much work a receiver makes of an answer, others have their turn, and the answer is cut at a limit.

The receiver is a process of its own, and what is measured is this thread's own time: on a busy machine too.
"""

import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
import trustme

from requeuest_trio import Config, TrioTransport
from requeuest_trio._http.sender import open_sender
from requeuest_trio._http.turns import Turns
from requeuest_trio._model.outcome import Delivery
from tests.http.flooding import FLOODS
from tests.http.hostile import send

AT_ONCE = 8
LONGEST = 0.025
"""Seconds of computing between two turns of another task."""
PATIENT = 120.0


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
async def others_have_their_turn() -> AsyncIterator[None]:
    longest = 0.0

    async def look() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await trio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        yield
        nursery.cancel_scope.cancel()
    assert longest < LONGEST


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


async def test_costly_answers_share_a_part_of_the_processor() -> None:
    """However many there are, and however long they go on."""
    waits: list[float] = []

    async def read_costly() -> None:
        turns = Turns()
        for _ in range(20):
            await turns.after(0.002)
            waits.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read_costly)
    assert max(waits) - began >= 10 * 20 * 0.002 * 4
