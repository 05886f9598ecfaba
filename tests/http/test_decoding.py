"""Compressed bodies come out the same however they come, within limits; and large bodies have one limit together."""

import gzip
import zlib
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio import Config, TrioTransport
from requeuest_trio._http.held_bodies import HeldBodies
from requeuest_trio._http.sender import open_sender
from requeuest_trio._http.wire.decoding import decoder_for
from requeuest_trio._model.outcome import Delivery
from tests.http.hostile import raw_server, says, send

RAW = zlib.compressobj(wbits=-15)
BODIES = {
    "gzip": gzip.compress(b"one"),
    "members": gzip.compress(b"o") + gzip.compress(b"") + gzip.compress(b"ne"),
    "padding": gzip.compress(b"one") + bytes(5),
    "half a mark behind it": gzip.compress(b"one") + b"\x1f",
    "zlib": zlib.compress(b"one"),
    "raw deflate": RAW.compress(b"one") + RAW.flush(),
}


@pytest.mark.parametrize("name", BODIES)
@given(cuts=st.lists(st.integers(0, 80), max_size=8))
def test_however_it_comes(name: str, cuts: list[int]) -> None:
    body = BODIES[name]
    decoder = decoder_for((("Content-Encoding", "gzip"),))
    assert decoder is not None
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    assert b"".join(decoder.decode(body[start:end], 100) for start, end in pairwise(places)) == b"one"
    decoder.finish()


def test_members_have_a_limit() -> None:
    decoder = decoder_for((("Content-Encoding", "gzip"),))
    assert decoder is not None
    assert decoder.decode(gzip.compress(b"x") * 1_000, 10_000) == b"x" * 1_000
    assert not decoder.has_enough
    assert decoder.decode(gzip.compress(b"x"), 10_000) == b""
    assert decoder.has_enough


class Body:
    """What is asked to stop."""

    is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True


def test_the_longest_here_is_cut_first() -> None:
    held = HeldBodies(100)
    bodies = [Body() for _ in range(4)]
    for body in bodies[:3]:
        held.hold(body, 30)
    held.hold(bodies[1], 40)
    assert [body.is_stopped for body in bodies] == [False] * 4
    held.hold(bodies[3], 1)
    assert [body.is_stopped for body in bodies] == [True, False, False, False]
    held.leave(bodies[1])
    held.hold(bodies[3], 70)
    assert [body.is_stopped for body in bodies[1:]] == [False] * 3


async def test_bodies_that_are_held_have_a_limit_in_all() -> None:
    """Each receiver sends almost all of what may be kept, and then nothing: those that came first are cut."""
    deliveries: list[Delivery] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + bytes(1_000_000)

    async def silent(_: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    transport = TrioTransport()
    async with (
        raw_server(says(answer, then=silent)) as server,
        open_sender(transport, Config()) as sender,
        trio.open_nursery() as nursery,
    ):

        async def one() -> None:
            deliveries.append(await send(sender, server.url, timeout=60, method="POST"))
            if len(deliveries) == 10:
                nursery.cancel_scope.cancel()

        for _ in range(77):
            nursery.start_soon(one)
    transport.close()
    for delivery in deliveries:
        assert delivery.answer is not None
        assert (delivery.answer.status, delivery.answer.truncated, delivery.answer.cut_off) == (200, True, None)
