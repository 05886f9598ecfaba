"""TLS is 1.2 or newer, for the host of the URL, with whom the context trusts; and its records are no framing."""

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import trio
import trustme

from requeuest_trio import TrioTransport
from requeuest_trio._http.net.tls import default_context
from requeuest_trio._http.sender import open_sender
from tests.http.hostile import SMALL, Handler, raw_server, read_head, says, send, until_left
from tests.http.recording import OK, recorder


def client_with(context: ssl.SSLContext | None) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=TrioTransport(ssl_context=context), trust_env=False)


async def test_name_and_protocol_are_offered(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """SNI (RFC 6066) for names, without the dot of an absolute one; ALPN (RFC 7301) for HTTP/1.1 alone."""
    names: list[str | None] = []
    protocols: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.sni_callback = lambda _, name, __: names.append(name)

    async def handle(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        await says(OK)(stream)
        protocols.append(stream.selected_alpn_protocol())

    trusting = default_context()
    authority.configure_trust(trusting)
    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **kw: getaddrinfo(host.rstrip("."), *args, **kw))
    async with raw_server(handle, tls=context) as server, client_with(trusting) as client:
        for host in ("localhost", "localhost.", "127.0.0.1"):
            assert (await client.get(f"https://{host}:{server.port}/")).text == "ok"
    assert names == ["localhost", "localhost", None]
    assert protocols == ["http/1.1"] * 3


async def test_host_of_the_url_is_checked_not_the_field(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with recorder(tls=server_tls) as record, client_with(client_tls) as client:
        response = await client.get(record.url, headers={"Host": "other.example"})
        assert response.text == "ok"
    assert b"\r\nHost: other.example\r\n" in record.wire[0]


async def test_client_certificate(authority: trustme.CA, client_tls: ssl.SSLContext) -> None:
    demanding = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(demanding)
    authority.configure_trust(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    async with recorder(tls=demanding) as record:
        async with client_with(client_tls) as client:
            with pytest.raises(httpx2.TransportError):
                await client.get(record.url)
        assert record.wire == []
        authority.issue_cert("client@example.org").configure_cert(client_tls)
        async with client_with(client_tls) as client:
            assert (await client.get(record.url)).text == "ok"


@pytest.mark.parametrize(
    ("host", "named", "is_accepted"),
    [
        ("api.example.com", "api.example.com", True),
        ("api.example.com", "*.example.com", True),
        ("api.example.com", "other.example.com", False),
        ("example.com", "*.example.com", False),
        ("a.api.example.com", "*.example.com", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "localhost", False),
    ],
)
async def test_the_name_in_the_certificate(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, host: str, named: str, is_accepted: bool
) -> None:
    """That of the URL: a star is one whole label, and an address is no name."""
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), default_context()
    authority.issue_cert(named).configure_cert(context)
    authority.configure_trust(trusting)
    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *args, **kw: getaddrinfo("127.0.0.1", *args, **kw))
    async with raw_server(says(OK), tls=context) as server, client_with(trusting) as client:
        if is_accepted:
            assert (await client.get(f"https://{host}:{server.port}/")).text == "ok"
            return
        with pytest.raises(httpx2.ConnectError, match=r"no TLS: .*certificate verify failed"):
            await client.get(f"https://{host}:{server.port}/")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_1_1_is_refused(authority: trustme.CA) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    authority.issue_cert("127.0.0.1").configure_cert(old)
    context = default_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    authority.configure_trust(context)
    async with recorder(tls=old) as record, client_with(context) as client:
        with pytest.raises(httpx2.ConnectError, match="no TLS"):
            await client.get(record.url)


async def test_by_default_the_operating_system_is_trusted(
    authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its authorities are read once: for each connection it would keep the event loop for a tenth of a second."""
    async with recorder(tls=server_tls) as record:
        async with client_with(None) as client:
            with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate"):
                await client.get(record.url)
        assert record.wire == []

        file = tmp_path / "authorities.pem"
        authority.cert_pem.write_to_path(str(file))
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        async with client_with(None) as client:
            for _ in range(3):
                assert (await client.get(record.url, headers={"Connection": "close"})).text == "ok"
                file.unlink(missing_ok=True)
    assert record.server.connections == 4


async def test_impatient_attempts_do_not_keep_each_other_from_the_authorities(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, calls = threading.Event(), 0

    def slow() -> ssl.SSLContext:
        nonlocal calls
        calls += 1
        may_end.wait(10)
        return client_tls

    monkeypatch.setattr("requeuest_trio._http.net.connector.default_context", slow)
    async with recorder(tls=server_tls) as record, client_with(None) as client:
        for _ in range(3):
            with trio.move_on_after(0.02) as scope:
                await client.get(record.url)
            assert scope.cancelled_caught
        may_end.set()
        assert (await client.get(record.url)).text == "ok"
    assert calls == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_large_bodies_both_ways(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    client_tls.maximum_version = client_tls.minimum_version = version
    body = bytes(range(256)) * 12_000
    async with recorder(tls=server_tls) as record, client_with(client_tls) as client:
        record.answer = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        for _ in range(2):
            assert (await client.post(record.url, content=body)).content == body
            assert record.wire.pop().endswith(b"\r\n\r\n" + body)
        assert record.server.connections == 1


class Corked(trio.abc.Stream):
    """Holds back what is sent, so that several TLS records arrive as one piece."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.held = bytearray()
        self.is_corked = False
        self.at_close: Callable[[], None] | None = None
        """Called instead of receiving."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.held += data
        if not self.is_corked:
            await self._stream.send_all(self.held)
            self.held.clear()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.at_close is not None:
            self.at_close()
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("what", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"])
async def test_records_left_over_cost_the_connection(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, what: bytes
) -> None:
    """They come with the answer in one piece, and would be read as the answer to the next request."""

    async def handle(stream: trio.abc.Stream) -> None:
        corked = Corked(stream)
        tls = trio.SSLStream(corked, server_tls, server_side=True)
        while True:
            await read_head(tls)
            corked.is_corked = True
            await tls.send_all(OK)
            await tls.send_all(what)
            corked.is_corked = False
            await corked.send_all(b"")

    async with raw_server(handle) as server, client_with(client_tls) as client:
        for _ in range(3):
            assert (await client.get(f"https://localhost:{server.port}/")).text == "ok"
        assert server.connections == 3


async def test_end_of_tls_together_with_the_answer(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """The connection is not used again: not even for the one retry."""

    async def handle(stream: trio.abc.Stream) -> None:
        corked = Corked(stream)
        tls = trio.SSLStream(corked, server_tls, server_side=True, https_compatible=False)
        await read_head(tls)
        corked.is_corked = True
        await tls.send_all(OK)
        with trio.CancelScope() as scope:
            corked.at_close = scope.cancel
            await tls.unwrap()
        corked.is_corked = False
        await stream.send_all(corked.held)
        await until_left(stream)

    async with raw_server(handle) as server, client_with(client_tls) as client:
        for _ in range(3):
            assert (await client.get(f"https://localhost:{server.port}/")).text == "ok"
        assert server.connections == 3


async def test_many_small_records(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        corked = Corked(stream)
        tls = trio.SSLStream(corked, server_tls, server_side=True)
        await read_head(tls)
        corked.is_corked = True
        await tls.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n")
        for number in range(2_000):
            await tls.send_all(b"%d" % (number % 10))
        corked.is_corked = False
        await corked.send_all(b"")
        await until_left(tls)

    async with raw_server(handle) as server, client_with(client_tls) as client:
        assert (await client.get(f"https://localhost:{server.port}/")).content == b"0123456789" * 200


@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: identity\r\n\r\n"]
)
async def test_body_that_ends_with_the_connection(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, says_so: bool, head: bytes
) -> None:
    """It is whole with TLS's closing message only: without it, anybody on the way may have cut it (RFC 9112 9.8)."""
    async with raw_server(ends(head + b"body", says_so), tls=server_tls) as server:
        async with open_sender(TrioTransport(ssl_context=client_tls), SMALL) as sender:
            delivery = await send(sender, server.url)
        assert delivery.answer is not None
        assert (delivery.answer.status, delivery.answer.body) == (200, b"body")
        assert (delivery.answer.truncated, delivery.answer.cut_off is None) == (not says_so, says_so)
        async with client_with(client_tls) as client:
            if says_so:
                assert (await client.get(server.url)).text == "body"
            else:
                with pytest.raises(httpx2.RemoteProtocolError, match="closing alert"):
                    await client.get(server.url)


@pytest.mark.parametrize(
    "answer",
    [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
)
@pytest.mark.parametrize("says_so", [True, False])
async def test_body_that_ends_itself_is_whole_however_the_connection_ends(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, says_so: bool, answer: bytes
) -> None:
    async with raw_server(ends(answer, says_so), tls=server_tls) as server, client_with(client_tls) as client:
        assert (await client.get(server.url)).text == "ok"


def ends(answer: bytes, says_so: bool) -> Handler:
    """Answers, and ends the connection with TLS's closing message, or without it."""

    async def handle(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        await says(answer)(stream)
        if says_so:
            with trio.move_on_after(1):
                await stream.aclose()
        else:
            await stream.transport_stream.aclose()

    return handle


async def test_break_in_the_middle_is_an_error(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        await says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbody")(stream)
        await stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"not encrypted" * 4)

    async with raw_server(handle, tls=server_tls) as server, client_with(client_tls) as client:
        with pytest.raises(httpx2.ReadError):
            await client.get(server.url)


def test_a_certificate_with_a_common_name_only_is_refused() -> None:
    """RFC 9110 section 4.3.4: the name is that of subjectAltName, which OpenSSL holds to if it is told."""
    assert not default_context().hostname_checks_common_name
