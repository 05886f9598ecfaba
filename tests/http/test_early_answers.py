"""Who answers before a request has come in whole may read no more of it: then sending stops, and the answer counts."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio

from requeuest_trio import Config, Reached, TrioTransport
from requeuest_trio._http.sender import Sender, open_sender
from tests.http.hostile import PATIENT, Handler, raw_server, read_head, send
from tests.http.recording import OK

BODY = bytes(9_000_000)


def answers(status: int, *, before: bytes = b"") -> Handler:
    """Answers at once, keeps the connection open, and reads no more."""

    async def handle(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(before + b"HTTP/1.1 %d Early\r\nContent-Length: 5\r\n\r\nearly" % status)
        await trio.sleep_forever()

    return handle


@pytest.fixture(params=["plain", "TLS 1.2", "TLS 1.3"])
def tls(
    request: pytest.FixtureRequest, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    if request.param == "plain":
        return None
    version = ssl.TLSVersion.TLSv1_2 if request.param == "TLS 1.2" else ssl.TLSVersion.TLSv1_3
    client_tls.maximum_version = client_tls.minimum_version = version
    return server_tls, client_tls


Contexts = tuple[ssl.SSLContext, ssl.SSLContext] | None


@asynccontextmanager
async def sender_with(tls: Contexts) -> AsyncIterator[Sender]:
    transport = TrioTransport(ssl_context=tls and tls[1])
    async with open_sender(transport, Config()) as sender:
        yield sender
    transport.close()


@pytest.mark.parametrize("status", [200, 302, 401, 413, 503])
async def test_answer_while_sending(tls: Contexts, status: int) -> None:
    async with raw_server(answers(status), tls=tls and tls[0]) as server, sender_with(tls) as sender:
        delivery = await send(sender, server.url, method="POST", body=BODY)
        assert delivery.reached is Reached.RESPONSE
        assert delivery.answer is not None
        assert (delivery.answer.status, delivery.answer.body) == (status, b"early")
        assert delivery.answer.cut_off is None


async def test_answer_after_others_with_1xx(tls: Contexts) -> None:
    async with (
        raw_server(answers(413, before=b"HTTP/1.1 103 Hints\r\n\r\n"), tls=tls and tls[0]) as server,
        sender_with(tls) as sender,
    ):
        delivery = await send(sender, server.url, method="POST", body=BODY)
        assert delivery.answer is not None
        assert delivery.answer.status == 413


@pytest.mark.parametrize("early", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"])
async def test_who_reads_on_gets_all_of_it(tls: Contexts, early: bytes) -> None:
    """After a 1xx answer, and after an early success too: it may need the rest."""
    received = 0
    has_all = trio.Event()

    async def handle(stream: trio.abc.Stream) -> None:
        nonlocal received
        received = len((await read_head(stream)).partition(b"\r\n\r\n")[2])
        await stream.send_all(early)
        while received < len(BODY):
            received += len(await stream.receive_some())
        has_all.set()
        if b"200" not in early:
            await stream.send_all(OK)
        await trio.sleep_forever()

    async with (
        raw_server(handle, tls=tls and tls[0]) as server,
        sender_with(tls) as sender,
    ):
        delivery = await send(sender, server.url, method="POST", body=BODY)
        assert delivery.answer is not None
        assert (delivery.answer.status, delivery.answer.body) == (200, b"ok")
        await has_all.wait()


class Endless(httpx2.AsyncByteStream):
    """A body that comes in pieces, for as long as somebody takes them."""

    def __init__(self) -> None:
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(100_000)
        finally:
            self.is_closed = True


async def test_body_that_is_a_stream(tls: Contexts) -> None:
    body = Endless()
    transport = TrioTransport(ssl_context=tls and tls[1])
    async with (
        raw_server(answers(413), tls=tls and tls[0]) as server,
        httpx2.AsyncClient(transport=transport, trust_env=False, timeout=PATIENT) as client,
    ):
        response = await client.post(server.url, content=body)
        assert (response.status_code, response.text) == (413, "early")
        assert body.is_closed
        assert transport.statistics().open == 0


async def test_error_of_a_body_comes_out_as_it_is() -> None:
    class Failing(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"x"
            raise LookupError("mine")

    transport = TrioTransport()
    async with (
        raw_server(answers(413)) as server,
        httpx2.AsyncClient(transport=transport, trust_env=False) as client,
    ):
        with pytest.raises(LookupError, match="mine"):
            await client.post(server.url, content=Failing())
        assert transport.statistics().open == 0


async def test_end_of_the_connection_while_sending(tls: Contexts) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await read_head(stream)

    async with (
        raw_server(handle, tls=tls and tls[0]) as server,
        sender_with(tls) as sender,
    ):
        delivery = await send(sender, server.url, method="POST", body=BODY)
    assert (delivery.answer, delivery.reached) == (None, Reached.SENT)
    assert "timed out" not in str(delivery.error)
