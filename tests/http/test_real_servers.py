"""Real servers understand what `TrioTransport` sends, it understands them, and both keep the connection where they can.

httpx2's own transport is asked the same, and has to get the same.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
import trio

from requeuest_trio import TrioTransport
from requeuest_trio._http.sender import open_sender
from tests.http.hostile import SMALL, send
from tests.http.real.servers import FROM_THE_SYSTEM, SERVERS, program, running

# One process of each for all tests.
pytestmark = pytest.mark.xdist_group("real servers")

# Whether the output of a program has a length or comes in chunks is a matter of time with Apache.
VARIABLE = {b"date", b"content-length", b"transfer-encoding"}


class Counting(TrioTransport):
    """Knows how many connections it has opened."""

    opened = 0

    async def _connect(self, *args: Any, **options: Any) -> Any:
        self.opened += 1
        return await super()._connect(*args, **options)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.param
    if name in FROM_THE_SYSTEM and program(name) is None:
        pytest.skip(f"{name} is not installed: apt-get install {'apache2-bin' if name == 'apache2' else name}")
    with running(name) as url:
        yield url


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> bool:
    """Whether this server keeps connections open."""
    return bool(request.node.callspec.params["server"] != "http.server 1.0")


@pytest.fixture
async def transport() -> AsyncIterator[Counting]:
    async with Counting(max_connections=8) as opened:
        yield opened


@pytest.fixture
async def client(transport: Counting) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=10) as opened:
        yield opened


class Pieces(httpx2.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 10_000


REQUESTS: dict[str, tuple[str, str, dict[str, Any], int, str | None]] = {
    "GET": ("GET", "/hello", {}, 200, "hello"),
    "HEAD": ("HEAD", "/hello", {}, 200, ""),
    "chunked": ("GET", "/chunked/", {}, 200, None),
    "HEAD of chunked": ("HEAD", "/chunked/", {}, 200, ""),
    "204": ("GET", "/none", {}, 204, ""),
    "302": ("GET", "/moved", {}, 302, None),
    "POST nothing": ("POST", "/size", {"content": b""}, 200, "0"),
    "POST": ("POST", "/size", {"content": b"body"}, 200, "4"),
    "POST 1 MB": ("POST", "/size", {"content": b"x" * 1_000_000}, 200, "1000000"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_same_as_with_httpx2(
    server: str, client: httpx2.AsyncClient, transport: Counting, kept: bool, name: str
) -> None:
    method, path, options, status, text = REQUESTS[name]
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as other:
        for number in range(3):
            theirs = await other.request(method, server + path, **options)
            ours = await client.request(method, server + path, **options)
            assert (ours.status_code, theirs.status_code) == (status, status)
            assert ours.content == theirs.content
            assert text in {None, ours.text}
            assert ours.http_version == theirs.http_version
            assert ours.reason_phrase == theirs.reason_phrase
            assert constant(ours) == constant(theirs)
            assert transport.opened == (1 if kept else number + 1)


def constant(response: httpx2.Response) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in response.headers.raw if name.lower() not in VARIABLE]


async def test_not_modified(server: str, client: httpx2.AsyncClient, transport: Counting, kept: bool) -> None:
    etag = (await client.get(server + "/hello")).headers["etag"]
    for _ in range(2):
        response = await client.get(server + "/hello", headers={"If-None-Match": etag})
        assert (response.status_code, response.content) == (304, b"")
    assert transport.opened == (1 if kept else 3)


async def test_upload_in_pieces(server: str, client: httpx2.AsyncClient, request: pytest.FixtureRequest) -> None:
    response = await client.post(server + "/size", content=Pieces())
    assert response.status_code == 200
    # nginx answers before it has looked at all of the body.
    assert response.text == "100000" or request.node.callspec.params["server"] == "nginx"
    assert (await client.get(server + "/hello")).text == "hello"


@pytest.mark.parametrize("size", [100_000, 20_000_000])
async def test_upload_that_is_answered_early(server: str, client: httpx2.AsyncClient, size: int) -> None:
    """The server does not want it: that is an answer, however much of the body had gone (RFC 9112 section 9.5)."""
    for _ in range(3):
        with trio.fail_after(5):
            response = await client.post(server + "/limited", content=b"x" * size)
        assert response.status_code == 413
    assert (await client.get(server + "/hello")).text == "hello"


async def test_all_kinds_over_one_connection(
    server: str, client: httpx2.AsyncClient, transport: Counting, kept: bool
) -> None:
    for name in [*REQUESTS, *reversed(REQUESTS)]:
        method, path, options, status, text = REQUESTS[name]
        response = await client.request(method, server + path, **options)
        assert response.status_code == status
        assert text in {None, response.text}
    assert transport.opened == (1 if kept else 2 * len(REQUESTS))


async def test_many_at_once(server: str, client: httpx2.AsyncClient, transport: Counting) -> None:
    texts = []

    async def ask() -> None:
        texts.append((await client.post(server + "/size", content=b"body")).text)

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(ask)
    assert texts == ["4"] * 30
    assert transport.statistics().open == transport.statistics().idle


async def test_as_the_queue_sends(server: str) -> None:
    async with open_sender(None, SMALL) as sender:
        for _ in range(3):
            delivery = await send(sender, server + "/size", method="POST", body=b"x" * 100_000)
            assert delivery.answer is not None
            assert (delivery.answer.status, delivery.answer.body) == (200, b"100000")
