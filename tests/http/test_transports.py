"""Other ways out than the library's own: transports and clients of the caller's, well-behaved or not."""

import gzip
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import httpx2
import pytest
import trio

from requeuest_trio import InvalidRequest, Reached
from requeuest_trio._http.exchanges import MAX_CHUNKS
from requeuest_trio._http.sender import open_sender
from requeuest_trio.testing import Receiver, Reply
from tests.http.hostile import SMALL, send

TOKEN = "s3cr3t-t0ken"


class Raising(httpx2.AsyncBaseTransport):
    """Raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise self.error


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


class Falsy(Exception):
    def __bool__(self) -> bool:
        return False


def in_a_circle() -> Exception:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def deep() -> Exception:
    error = ValueError("0")
    for number in range(1, 10_000):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    return error


@pytest.mark.parametrize(
    ("error", "reached", "text"),
    [
        (ValueError("why"), Reached.SENT, "ValueError: why"),
        (ValueError(), Reached.SENT, "ValueError"),
        (KeyError("k"), Reached.SENT, "KeyError: 'k'"),
        (OSError(5, "broken"), Reached.SENT, "OSError: [Errno 5] broken"),
        (StopAsyncIteration(), Reached.SENT, "RuntimeError: coroutine raised StopIteration"),
        (trio.ClosedResourceError(), Reached.SENT, "ClosedResourceError"),
        (trio.TooSlowError(), Reached.SENT, "TooSlowError"),
        (httpx2.ConnectError("refused"), Reached.CONNECT, "ConnectError: refused"),
        (httpx.ConnectTimeout("late"), Reached.CONNECT, "ConnectTimeout: late"),
        (httpx2.PoolTimeout("full"), Reached.CONNECT, "PoolTimeout: full"),
        (httpx2.UnsupportedProtocol("gopher"), Reached.CONNECT, "UnsupportedProtocol: gopher"),
        (httpx2.ReadTimeout("late"), Reached.SENT, "ReadTimeout: late"),
        (ExceptionGroup("g", [ValueError("why")]), Reached.SENT, "ValueError: why"),
        (ExceptionGroup("g", [ExceptionGroup("h", [ValueError("why")])]), Reached.SENT, "ValueError: why"),
        (ExceptionGroup("g", [ValueError("a"), KeyError("b")]), Reached.SENT, "ExceptionGroup: g (2 sub-exceptions)"),
        (NoText(), Reached.SENT, "NoText"),
        (Falsy("no"), Reached.SENT, "Falsy: no"),
        (in_a_circle(), Reached.SENT, "ValueError: one"),
        (deep(), Reached.SENT, "ValueError: 9999"),
        (ValueError("a\r\nb\0c\ud800\x1b[2J"), Reached.SENT, "ValueError: a b c [2J"),
        (ValueError("x" * 1_000_000), Reached.SENT, "ValueError: " + "x" * 488),
        (AssertionError("theirs"), Reached.SENT, "AssertionError: theirs"),
        (RecursionError("deep"), Reached.SENT, "RecursionError: deep"),
        (MemoryError(), Reached.SENT, "MemoryError"),
    ],
)
async def test_exception_becomes_a_delivery(error: Exception, reached: Reached, text: str) -> None:
    async with open_sender(Raising(error), SMALL) as sender:
        delivery = await send(sender, "http://h/")
    assert delivery.answer is None
    assert delivery.reached is reached
    assert delivery.error is not None
    assert delivery.error.startswith(text) or isinstance(error, StopAsyncIteration)
    assert len(delivery.error) <= 500


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_is_meant_for_the_program_reaches_it(error: BaseException) -> None:
    async with open_sender(Raising(error), SMALL) as sender:
        with pytest.raises(type(error)):
            await send(sender, "http://h/")


@pytest.mark.parametrize(
    "quoted",
    [
        f"Client error for url 'https://user:{TOKEN}@api.example.com/x'",
        f"GET http://h/?api_key={TOKEN}&page=2 failed",
        f"Illegal header value b'Bearer {TOKEN}'",
        f"cookie {TOKEN} refused",
        f"basic {TOKEN}",
    ],
)
async def test_error_quotes_no_secret(quoted: str) -> None:
    """It is stored, logged and shown."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Cookie": f"session={TOKEN}; theme=dark"}
    for error in (ValueError(quoted), OSError(quoted)):
        async with open_sender(Raising(error), SMALL) as sender:
            delivery = await send(sender, "http://h/", headers=headers)
        assert delivery.error is not None
        assert TOKEN not in delivery.error
        assert "***" in delivery.error


class Quoting(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
    """Raises an error that quotes the fields of what it was to send."""

    async def handle_async_request(self, request: Any) -> Any:
        raise OSError(" ".join(f"{name}={value}" for name, value in request.headers.items()))


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_error_quotes_nothing_that_a_client_adds(library: Any) -> None:
    """Its own fields and cookies, and what its `auth` and its hooks set while it sends."""

    class Signing(library.Auth):  # type: ignore[misc]  # of httpx or httpx2, as the test is told
        def auth_flow(self, request: Any) -> Any:
            request.headers["X-Proof"] = f"proof-{TOKEN}"
            yield request

    async def hook(request: Any) -> None:
        request.headers["X-Hook"] = f"hook-{TOKEN}"

    client = library.AsyncClient(
        transport=Quoting(),
        headers={"X-Own": f"own-{TOKEN}", "User-Agent": "a-program"},
        cookies={"theme": TOKEN},
        auth=Signing(),
        event_hooks={"request": [hook]},
    )
    async with client, open_sender(client, SMALL) as sender:
        delivery = await send(sender, "http://api.example.com/", headers={"X-Kind": "invoice"})
    assert delivery.error is not None
    assert TOKEN not in delivery.error
    for name in ("x-own", "cookie", "x-proof", "x-hook"):
        assert f"{name}=***" in delivery.error
    for shown in ("x-kind=invoice", "user-agent=a-program", "host=api.example.com"):
        assert shown in delivery.error


def answers(make: Callable[[], Any]) -> httpx2.MockTransport:
    return httpx2.MockTransport(lambda _: make())


ONE = httpx2.Response(201, headers={"X-A": "b"}, content=b"same")


@pytest.mark.parametrize(
    ("make", "body"),
    [
        (lambda: httpx2.Response(201, headers={"X-A": "b"}, content=b"body"), b"body"),
        (lambda: httpx2.Response(201, headers={"X-A": "b"}, json={"a": 1}), b'{"a":1}'),
        (lambda: httpx2.Response(201, headers={"X-A": "b"}), b""),
        (lambda: ONE, b"same"),
        (
            lambda: httpx2.Response(201, headers={"X-A": "b", "Content-Encoding": "gzip"}, content=gzip.compress(b"z")),
            b"z",
        ),
    ],
)
async def test_mock_transport(make: Callable[[], httpx2.Response], body: bytes) -> None:
    async with open_sender(answers(make), SMALL) as sender:
        for _ in range(2):
            delivery = await send(sender, "http://h/", method="POST")
            assert delivery.error is None
            assert delivery.answer is not None
            assert (delivery.answer.status, delivery.answer.body, delivery.answer.cut_off) == (201, body, None)
            assert ("X-A", "b") in delivery.answer.headers
            assert "content-encoding" not in dict(delivery.answer.headers)


async def test_mock_transport_meets_the_limit_of_the_body() -> None:
    async with open_sender(answers(lambda: httpx2.Response(200, content=b"x" * 100_001)), SMALL) as sender:
        delivery = await send(sender, "http://h/")
    assert delivery.answer is not None
    assert (len(delivery.answer.body), delivery.answer.truncated) == (100_000, True)


class SyncOnly(httpx2.SyncByteStream):
    def __iter__(self) -> Any:
        yield b"x"


class Endless(httpx2.AsyncByteStream):
    """A body that never waits: no cancellation can strike."""

    def __init__(self, piece: bytes) -> None:
        self._piece = piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield self._piece


class FailsToClose(httpx2.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"whole"

    async def aclose(self) -> None:
        raise OSError("could not close")


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: "200 OK",
        lambda: httpx2.Response("OK"),  # type: ignore[arg-type]
        *[lambda status=status: httpx2.Response(status) for status in (-1, 0, 99, 1_000, 10**30)],
        lambda: httpx2.Response(200, stream=SyncOnly()),
    ],
)
async def test_nonsense_instead_of_an_answer_is_a_failure(make: Callable[[], Any]) -> None:
    async with open_sender(answers(make), SMALL) as sender:
        delivery = await send(sender, "http://h/")
    assert delivery.error or (delivery.answer and delivery.answer.cut_off)


@pytest.mark.parametrize(("piece", "size"), [(b"x" * 1_000, 100_000), (b"x", MAX_CHUNKS), (b"", 0)])
@pytest.mark.parametrize("in_client", [False, True])
async def test_body_that_never_waits_ends_at_a_limit(piece: bytes, size: int, in_client: bool) -> None:
    """And others have their turn meanwhile."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    transport = answers(lambda: httpx2.Response(200, stream=Endless(piece)))
    http = httpx2.AsyncClient(transport=transport) if in_client else transport
    async with open_sender(http, SMALL) as sender, trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        delivery = await send(sender, "http://h/")
        nursery.cancel_scope.cancel()
    assert delivery.answer is not None
    assert (len(delivery.answer.body), delivery.answer.truncated, delivery.answer.cut_off) == (size, True, None)
    assert turns > 5


async def test_whole_answer_stays_whole_when_closing_fails() -> None:
    async with open_sender(answers(lambda: httpx2.Response(200, stream=FailsToClose())), SMALL) as sender:
        delivery = await send(sender, "http://h/")
    assert delivery.answer is not None
    assert (delivery.answer.body, delivery.answer.status) == (b"whole", 200)


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_client(receiver: Receiver, library: Any) -> None:
    """Its headers, hooks and limits apply; it stays open, and its redirects and timeouts are ours."""
    hooked = []

    async def hook(response: Any) -> None:
        hooked.append(response.status_code)
        await response.aread()

    client = library.AsyncClient(
        headers={"X-Team": "billing"},
        event_hooks={"response": [hook]},
        follow_redirects=True,
        timeout=0.001,
        trust_env=False,
    )
    async with client:
        async with open_sender(client, SMALL) as sender:
            receiver.script(Reply(302, headers=(("Location", "/x"),), delay=0.05))
            delivery = await send(sender, receiver.url, method="POST", headers=[("X-a", "1"), ("x-A", "2")], body=b"b")
        assert not client.is_closed
    [arrival] = receiver.arrivals
    assert (arrival.method, arrival.body, arrival.header("x-team")) == ("POST", b"b", "billing")
    assert [pair for pair in arrival.headers if pair[0].lower() == "x-a"] == [("X-a", "1"), ("x-A", "2")]
    assert delivery.answer is not None
    assert (delivery.answer.status, delivery.answer.body, hooked) == (302, b"ok", [302])


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_client_tells_how_far_it_came(library: Any) -> None:
    async with library.AsyncClient(trust_env=False) as client, open_sender(client, SMALL) as sender:
        delivery = await send(sender, "http://nosuch.invalid/")
    assert delivery.reached is Reached.RESOLVE


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_compressed_answer_to_a_client(receiver: Receiver, library: Any) -> None:
    """A client asks for compression; httpx alone would take a bomb apart 64 MB at a time."""
    receiver.script(Reply(headers=(("Content-Encoding", "gzip"),), body=gzip.compress(b"\0" * 50_000_000)))
    async with library.AsyncClient(trust_env=False) as client, open_sender(client, SMALL) as sender:
        delivery = await send(sender, receiver.url)
    assert delivery.answer is not None
    assert (len(delivery.answer.body), delivery.answer.truncated) == (100_000, True)


async def test_closed_client_is_a_failure_of_each_attempt() -> None:
    client = httpx2.AsyncClient(trust_env=False)
    await client.aclose()
    async with open_sender(client, SMALL) as sender:
        delivery = await send(sender, "http://h/")
    assert delivery.error is not None
    assert "closed" in delivery.error


async def test_transport_is_not_closed_by_us() -> None:
    closed = []

    class Watched(httpx2.MockTransport):
        async def aclose(self) -> None:
            closed.append(True)

    async with open_sender(Watched(lambda _: httpx2.Response(200)), SMALL) as sender:
        await send(sender, "http://h/")
    assert closed == []


@pytest.mark.parametrize(
    "http", [httpx.Client(), httpx2.Client(), httpx2.HTTPTransport(), httpx.AsyncHTTPTransport, "http", 7, object()]
)
async def test_other_things_are_refused(http: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^http: must be an httpx2.AsyncBaseTransport or an AsyncClient, not "):
        async with open_sender(http, SMALL):
            pass


async def test_nothing_is_logged_with_a_transport_of_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with open_sender(answers(lambda: httpx2.Response(200)), SMALL) as sender:
            await send(sender, "http://h/?token=s3cr3t")
    assert caplog.records == []
