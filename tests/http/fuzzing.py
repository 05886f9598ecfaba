"""Any text for the parts of a request: what its constructor lets through, and what is to be sent of it."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requeuest_trio import InvalidRequest, Request
from requeuest_trio._http.net.connector import Connector
from requeuest_trio._http.net.streams import Stream
from requeuest_trio._model.ecosystem import URL
from requeuest_trio._model.origin import Origin
from requeuest_trio._model.request import METHODS
from tests.http.recording import Recorder

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


def accepted(tries: int = 1_000) -> list[Request]:
    """What the constructor lets through of so many tries."""
    requests: list[Request] = []

    @settings(max_examples=tries, database=None)
    @given(REQUESTS)
    def collect(parts: Parts) -> None:
        method, url, headers, body = parts
        with suppress(InvalidRequest):
            requests.append(Request(method, url, headers=headers, body=body))

    collect()
    return requests


def answer(wire: bytes) -> bytes:
    return b"HTTP/1.1 204 No Content\r\n\r\n"


def all_to(record: Recorder, monkeypatch: pytest.MonkeyPatch) -> list[Origin]:
    """Let every connection lead to one server, and note to where it was to lead."""
    origins: list[Origin] = []
    connect = Connector.connect

    async def to_recorder(self: Connector, origin: Origin, *args: object) -> Stream:
        origins.append(origin)
        return await connect(self, Origin("http", "127.0.0.1", record.server.port), *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Connector, "connect", to_recorder)
    return origins


def assert_exact(request: Request, wire: bytes, *added: bytes) -> None:
    """What went over the wire is the request, and besides fields of the library's."""
    url = URL(request.url)
    head, _, body = wire.partition(b"\r\n\r\n")
    line, host, *fields = head.split(b"\r\n")
    assert line == b"%b %b HTTP/1.1" % (request.method.encode(), url.raw_path)
    assert host == b"Host: " + url.netloc
    given = [f"{name}: {value}".encode("latin-1") for name, value in request.headers]
    assert fields[: len(given)] == given
    assert {field.partition(b":")[0] for field in fields[len(given) :]} <= {
        b"User-Agent", b"Accept-Encoding", b"Content-Length", *added,
    }  # fmt: skip
    assert body == request.body
