"""Receivers that are broken or mean: every one of them ends in a `Delivery` that says how far the request came."""

import gzip
import socket
import ssl
import struct
import zlib
from collections.abc import Awaitable, Callable

import pytest
import trio
import trustme

from requeuest_trio import Config, Reached
from requeuest_trio._http.sender import Sender, open_sender
from requeuest_trio._http.wire.decoding import decoder_for
from requeuest_trio._model.outcome import Delivery
from requeuest_trio.testing import Receiver, Reply, Reset, Stall
from tests.http.hostile import SHORT, SMALL, raw_server, read_head, says, send, until_left

OK = b"HTTP/1.1 200 OK\r\n"
PLAIN_OK = OK + b"Content-Length: 2\r\n\r\nok"


def assert_unanswered(delivery: Delivery, reached: Reached, *words: str) -> None:
    assert delivery.answer is None
    assert delivery.reached is reached
    assert delivery.error is not None
    assert all(word.lower() in delivery.error.lower() for word in words), delivery.error


def assert_cut_off(delivery: Delivery, status: int, body: bytes, *words: str) -> None:
    assert delivery.reached is Reached.RESPONSE
    assert delivery.answer is not None
    assert (delivery.answer.status, delivery.answer.body, delivery.answer.truncated) == (status, body, True)
    assert delivery.answer.cut_off is not None
    assert all(word.lower() in delivery.answer.cut_off.lower() for word in words), delivery.answer.cut_off


def assert_delivered(delivery: Delivery, status: int, body: bytes) -> None:
    assert delivery.error is None
    assert delivery.answer is not None
    assert (delivery.answer.status, delivery.answer.body) == (status, body)
    assert (delivery.answer.truncated, delivery.answer.cut_off) == (False, None)


# --- before anything was sent -----------------------------------------------------------------------------------------


async def test_nobody_listens(sender: Sender) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        delivery = await send(sender, f"http://127.0.0.1:{reserved.getsockname()[1]}/")
    assert_unanswered(delivery, Reached.CONNECT, "refused")


async def test_unknown_name(sender: Sender) -> None:
    assert_unanswered(await send(sender, "http://nosuch.invalid/"), Reached.RESOLVE, "ConnectError")


async def test_tls_to_a_plain_port(sender: Sender, receiver: Receiver) -> None:
    delivery = await send(sender, receiver.url.replace("http", "https"))
    assert_unanswered(delivery, Reached.TLS, "ssl")


async def test_certificate_that_nobody_signed(sender: Sender, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with raw_server(says(PLAIN_OK), tls=context) as server:
        delivery = await send(sender, server.url)
    assert_unanswered(delivery, Reached.TLS, "certificate")


async def test_tls_handshake_that_never_comes(sender: Sender) -> None:
    async with raw_server(until_left) as server:
        delivery = await send(sender, server.url.replace("http", "https"), timeout=SHORT)
        await server.wait_empty()
    assert_unanswered(delivery, Reached.TLS, "timed out after 0.3 s")


async def test_connection_that_is_never_accepted(sender: Sender) -> None:
    """A full queue of connections: the kernel does not answer, which looks like a firewall."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        delivery = await send(sender, f"http://127.0.0.1:{address[1]}/", timeout=SHORT)
        for filler in fillers:
            filler.close()
    assert_unanswered(delivery, Reached.CONNECT, "timed out")


# --- before a status came ---------------------------------------------------------------------------------------------


async def test_reset_before_the_status(sender: Sender, receiver: Receiver) -> None:
    receiver.script(Reset())
    assert_unanswered(await send(sender, receiver.url, method="POST"), Reached.SENT, "reset")


async def test_closed_before_the_status(sender: Sender) -> None:
    async with raw_server(says(b"")) as server:
        assert_unanswered(await send(sender, server.url), Reached.SENT, "disconnected")


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        OK + b"Content-Length 5\r\n\r\nhello",
        OK + b"Content Length: 5\r\n\r\nhello",
        OK + b"X-A: a\0b\r\n\r\n",
        OK + b"Content-Length: -5\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"X-Long: " + b"x" * 300_000,
        b"\0" * 300_000,
    ],
)
async def test_garbage_instead_of_a_status(sender: Sender, answer: bytes) -> None:
    async with raw_server(says(answer)) as server:
        delivery = await send(sender, server.url)
        await server.wait_empty()
    assert delivery.answer is None
    assert delivery.reached is Reached.SENT
    assert delivery.error
    assert delivery.error.isprintable()
    assert len(delivery.error) <= 500


def drips(head: bytes, drop: bytes, pause: float = 0.02) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    async def handle(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(head)
        while True:
            await stream.send_all(drop)
            await trio.sleep(pause)

    return handle


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param(until_left, id="never answers"),
        pytest.param(drips(OK, b"X-A: b\r\n"), id="drips headers"),
        pytest.param(drips(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), id="103 for ever"),
        pytest.param(drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500, 0), id="a flood of 100"),
    ],
)
async def test_answer_that_never_begins(sender: Sender, handle: Callable[[trio.abc.Stream], Awaitable[None]]) -> None:
    async with raw_server(handle) as server:
        delivery = await send(sender, server.url, timeout=SHORT)
        await server.wait_empty()
    assert_unanswered(delivery, Reached.SENT)
    assert "timed out after 0.3 s" in str(delivery.error) or "RemoteProtocolError" in str(delivery.error)


async def test_receiver_that_reads_nothing(sender: Sender) -> None:
    async def ignore(_: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with raw_server(ignore) as server:
        delivery = await send(sender, server.url, method="POST", body=b"x" * 10_000_000, timeout=SHORT)
    assert_unanswered(delivery, Reached.SENT, "timed out")


# --- after the status -------------------------------------------------------------------------------------------------


async def test_body_that_drips_for_ever(sender: Sender) -> None:
    async with raw_server(drips(OK + b"Content-Length: 1000\r\n\r\n", b"x")) as server:
        delivery = await send(sender, server.url, timeout=SHORT)
        await server.wait_empty()
    assert delivery.answer is not None
    assert set(delivery.answer.body) == set(b"x")
    assert_cut_off(delivery, 200, delivery.answer.body, "timed out after 0.3 s")


async def test_body_that_never_comes(sender: Sender) -> None:
    async with raw_server(says(OK + b"Content-Length: 5\r\n\r\n", then=until_left)) as server:
        delivery = await send(sender, server.url, timeout=SHORT)
    assert_cut_off(delivery, 200, b"", "timed out")


async def test_short_body(sender: Sender, receiver: Receiver) -> None:
    receiver.script(Reply(201, body=b"thanks", body_sent=3))
    assert_cut_off(await send(sender, receiver.url), 201, b"tha", "closed")


async def test_reset_after_the_status(sender: Sender) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await read_head(stream)
        await stream.send_all(OK + b"Content-Length: 10\r\n\r\nhalf")
        may_reset.set()
        await has_status.wait()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    may_reset, has_status = trio.Event(), trio.Event()
    async with raw_server(handle) as server, trio.open_nursery() as nursery:
        nursery.start_soon(may_reset.wait)
        deliveries: list[Delivery] = []

        async def run() -> None:
            deliveries.append(await send(sender, server.url))

        nursery.start_soon(run)
        await may_reset.wait()
        await trio.testing.wait_all_tasks_blocked(0.02)
        has_status.set()
    assert_cut_off(deliveries[0], 200, b"half", "Error")


@pytest.mark.parametrize(
    "chunks", [b"zz\r\nabc\r\n", b"5\r\nab", b"-1\r\n", b"fffffffffffffffffffffff\r\n", b"2\r\nabcd\r\n0\r\n\r\n"]
)
async def test_broken_chunks(sender: Sender, chunks: bytes) -> None:
    async with raw_server(says(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)) as server:
        delivery = await send(sender, server.url)
    assert delivery.answer is not None
    assert delivery.answer.cut_off is not None


async def test_more_than_was_announced_is_no_part_of_the_answer(sender: Sender) -> None:
    async with raw_server(says(OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 500 Smuggled\r\n\r\n")) as server:
        assert_delivered(await send(sender, server.url), 200, b"ok")
        assert_delivered(await send(sender, server.url), 200, b"ok")
        assert server.connections == 2


async def test_endless_body_is_left_at_the_limit(sender: Sender) -> None:
    """The sender stops reading and closes; so the receiver can't send much more than that."""
    sent = 0

    async def handle(stream: trio.abc.Stream) -> None:
        nonlocal sent
        await read_head(stream)
        await stream.send_all(OK + b"\r\n")
        while True:
            await stream.send_all(b"x" * 65_536)
            sent += 65_536

    async with raw_server(handle) as server:
        delivery = await send(sender, server.url)
        await server.wait_empty()
    assert delivery.answer is not None
    assert (delivery.answer.body, delivery.answer.truncated) == (b"x" * SMALL.max_response_body, True)
    assert delivery.answer.cut_off is None
    assert sent < 20_000_000


@pytest.mark.parametrize(("size", "truncated"), [(99_999, False), (100_000, False), (100_001, True)])
async def test_limit_is_exact(sender: Sender, receiver: Receiver, size: int, truncated: bool) -> None:
    receiver.script(Reply(body=b"x" * size))
    delivery = await send(sender, receiver.url)
    assert delivery.answer is not None
    assert (len(delivery.answer.body), delivery.answer.truncated) == (min(size, 100_000), truncated)


async def test_limit_of_nothing(receiver: Receiver) -> None:
    async with open_sender(None, Config(max_response_body=0)) as sender:
        delivery = await send(sender, receiver.url)
    assert delivery.answer is not None
    assert (delivery.answer.body, delivery.answer.truncated) == (b"", True)


async def test_stall_ends_with_the_deadline(sender: Sender, receiver: Receiver) -> None:
    receiver.script(Stall())
    assert_unanswered(await send(sender, receiver.url, timeout=SHORT), Reached.SENT, "timed out")
    assert_delivered(await send(sender, receiver.url), 200, b"ok")


# --- compression, which nobody asked for ------------------------------------------------------------------------------

BOMB = gzip.compress(b"\0" * 50_000_000, 9)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_bomb_is_taken_apart_up_to_the_limit(sender: Sender, receiver: Receiver, coding: str) -> None:
    body = BOMB if coding == "gzip" else zlib.compress(b"\0" * 50_000_000, 9)
    receiver.script(Reply(headers=(("Content-Encoding", coding),), body=body))
    delivery = await send(sender, receiver.url)
    assert delivery.answer is not None
    assert (delivery.answer.body, delivery.answer.truncated) == (b"\0" * 100_000, True)


@pytest.mark.parametrize("bomb", [BOMB, zlib.compress(b"\0" * 1_000_000)], ids=["gzip", "zlib"])
def test_no_more_is_unpacked_than_there_is_room_for(bomb: bytes) -> None:
    decoder = decoder_for((("Content-Encoding", "gzip"),))
    assert decoder is not None
    assert decoder.decode(bomb, 1_000) == b"\0" * 1_000


async def test_compressed_answer_is_kept_as_what_it_means(sender: Sender, receiver: Receiver) -> None:
    receiver.script(Reply(headers=(("content-encoding", "GZIP"), ("X-A", "b")), body=gzip.compress(b"text", mtime=0)))
    delivery = await send(sender, receiver.url)
    assert_delivered(delivery, 200, b"text")
    assert delivery.answer is not None
    assert delivery.answer.headers == (("X-A", "b"),)


async def test_unknown_coding_is_kept_as_it_came(sender: Sender, receiver: Receiver) -> None:
    receiver.script(Reply(headers=(("Content-Encoding", "br"),), body=b"\x8b\x01\x80"))
    delivery = await send(sender, receiver.url)
    assert_delivered(delivery, 200, b"\x8b\x01\x80")
    assert delivery.answer is not None
    assert delivery.answer.headers == (("Content-Encoding", "br"), ("Content-Length", "3"))


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(b"text" * 1_000, mtime=0)[:-9]])
async def test_broken_compression_breaks_the_answer_off(sender: Sender, receiver: Receiver, body: bytes) -> None:
    receiver.script(Reply(headers=(("Content-Encoding", "gzip"),), body=body))
    delivery = await send(sender, receiver.url)
    assert delivery.answer is not None
    assert delivery.answer.status == 200
    assert delivery.answer.cut_off
