"""Any text for a request is refused by its constructor, or goes over the wire byte for byte; no exception escapes."""

from contextlib import suppress

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requeuest_trio import InvalidRequest, Request, TrioTransport
from requeuest_trio._http.connecting import Connector
from requeuest_trio._http.message import Origin, _target, target_of
from requeuest_trio._http.sender import open_sender
from requeuest_trio._http.streams import Stream
from requeuest_trio._model.ecosystem import URL
from requeuest_trio._model.request import METHODS
from tests.http.hostile import SMALL, send_request
from tests.http.recording import Recorder, recorder

HOSTS = st.text(max_size=12) | st.sampled_from(
    ["h", "example.com", "EXAMPLE.com.", "[::1]", "[::ffff:1.2.3.4]", "127.1", "bücher.example", "a_b", "*"]
)
PORTS = st.sampled_from(["", ":", ":80", ":443", ":8080", ":65535", ":65536", ":0", ":x", ":080"]) | st.integers().map(
    lambda number: f":{number}"
)
PATHS = st.text(max_size=15) | st.text("/.%2fé?&=+;,:@'\"\\|[]{}^`~#\r\n\t \0", max_size=15)
URLS = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "http://", "https://", "HTTP://", "http:", "//", "ftp://", ""]),
    st.sampled_from(["", "", "", "user:pass@", "@", "ü@"]),
    HOSTS,
    PORTS,
    PATHS.map(lambda path: "/" + path) | PATHS,
)
NAMES = st.sampled_from(
    ["X-A", "x-a", "Accept", "Host", "Content-Length", "Transfer-Encoding", "Connection", "User-Agent"]
) | st.text(max_size=6)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126) | st.sampled_from(" \t\xa0ÿ"), max_size=8)
HEADERS = st.lists(st.tuples(st.from_regex(r"X-[!-~]{0,4}", fullmatch=True), VALUES), max_size=3) | st.lists(
    st.tuples(NAMES, VALUES | st.text(max_size=8)), max_size=2
)
# One part at a time, since most texts are refused.
Parts = tuple[str, str, list[tuple[str, str]], bytes]
NO_HEADERS: list[tuple[str, str]] = []
REQUESTS: st.SearchStrategy[Parts] = (
    st.tuples(st.just("POST"), URLS, st.just(NO_HEADERS), st.just(b""))
    | st.tuples(st.just("POST"), st.just("http://h/"), HEADERS, st.binary(max_size=20))
    | st.tuples(st.sampled_from(sorted(METHODS)) | st.text(max_size=6), st.just("http://h/"), HEADERS, st.just(b""))
)


def accepted() -> list[Request]:
    """What the constructor lets through of some thousand tries."""
    requests: list[Request] = []

    @settings(max_examples=1_000, database=None)
    @given(REQUESTS)
    def collect(parts: Parts) -> None:
        method, url, headers, body = parts
        with suppress(InvalidRequest):
            requests.append(Request(method, url, headers=headers, body=body))

    collect()
    return requests


async def test_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorder() as record:

        async def to_recorder(self: Connector, origin: Origin, *args: object) -> Stream:
            origins.append(origin)
            return await connect(self, Origin("http", "127.0.0.1", record.server.port), *args)  # type: ignore[arg-type]

        origins: list[Origin] = []
        connect = Connector.connect
        monkeypatch.setattr(Connector, "connect", to_recorder)
        requests = accepted()
        assert len(requests) > 100
        assert any(request.headers for request in requests)
        async with TrioTransport(keepalive=0) as transport, open_sender(transport, SMALL) as sender:
            for request in requests:
                record.answer = answer
                delivery = await send_request(sender, request)
                assert delivery.error is None, (request, delivery)
                assert_exact(request, record)
                assert origins.pop() == _target(URL(request.url)).origin


def answer(wire: bytes) -> bytes:
    return b"HTTP/1.1 204 No Content\r\n\r\n"


def assert_exact(request: Request, record: Recorder) -> None:
    url = URL(request.url)
    head, _, body = record.wire.pop().partition(b"\r\n\r\n")
    line, host, *fields = head.split(b"\r\n")
    assert line == b"%b %b HTTP/1.1" % (request.method.encode(), url.raw_path)
    assert host == b"Host: " + url.netloc
    given = [f"{name}: {value}".encode("latin-1") for name, value in request.headers]
    assert fields[: len(given)] == given
    assert {field.partition(b":")[0] for field in fields[len(given) :]} <= {
        b"User-Agent", b"Accept-Encoding", b"Content-Length",
    }  # fmt: skip
    assert body == request.body
    assert record.wire == []


@given(URLS)
def test_urls_are_taken_apart_as_httpx2_does(url: str) -> None:
    """By whichever way is shorter."""
    try:
        kept = Request.get(url).url
    except InvalidRequest:
        return
    assert target_of(kept) == _target(httpx2.URL(kept))
