"""What httpx2's own transport puts on the wire and gives back, `TrioTransport` does too, byte for byte."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest

from requeuest_trio import TrioTransport
from tests.http.hostile import raw_server, read_head, says
from tests.http.odd_answers import BROKEN, READ
from tests.http.odd_answers import REFUSED as REFUSED_ANSWERS
from tests.http.recording import OK, Recorder, recorder

Call = Callable[[httpx2.AsyncClient, str], Awaitable[httpx2.Response]]


class Pieces(httpx2.AsyncByteStream):
    """A body that comes in pieces."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


def call(method: str, path: str = "/p", **options: Any) -> Call:
    async def run(client: httpx2.AsyncClient, url: str) -> httpx2.Response:
        made = {name: value() if callable(value) else value for name, value in options.items()}
        return await client.request(method, url + path, **made)

    return run


async def with_raw_fields(client: httpx2.AsyncClient, url: str) -> httpx2.Response:
    headers = [(b"x-B", b"2"), (b"X-a", b"1"), (b"x-b", b"\xe9 \x80"), (b"X-Empty", b""), (b"X-Tab", b"a\tb")]
    return await client.send(httpx2.Request("GET", url, headers=headers))


async def without_fields(client: httpx2.AsyncClient, url: str) -> httpx2.Response:
    return await client.send(httpx2.Request("GET", url, headers={}))


CALLS: dict[str, Call] = {
    "GET": call("GET"),
    "no path": call("GET", ""),
    "a query": call("GET", "/p", params={"q": "a b&c=ü/?", "empty": ""}),
    "a query as written": call("GET", "/p?a=b%20c+d&e=%C3%BC&[x]='y'&f"),
    "an empty query": call("GET", "/p?"),
    "a fragment": call("GET", "/p#part"),
    "odd characters in the path": call("GET", "/a b/ü/%2F/;x=1,2/@:!$'()*\"<>^`{|}"),
    "dots": call("GET", "/a/./b/../c//d"),
    "HEAD": call("HEAD"),
    "DELETE": call("DELETE"),
    "OPTIONS": call("OPTIONS"),
    "a method of one's own": call("PURGE"),
    "a method in lower case": call("get"),
    "POST bytes": call("POST", content=b"body"),
    "POST nothing": call("POST"),
    "POST no bytes": call("POST", content=b""),
    "PUT json": call("PUT", json={"a": [1, "ü"]}),
    "POST a form": call("POST", data={"a": "1 2", "b": "ü"}),
    "POST a large body": call("POST", content=b"x" * 1_000_000),
    "GET with a body": call("GET", content=b"body"),
    "DELETE with a body": call("DELETE", content=b"body"),
    "chunks": call("POST", content=lambda: Pieces(b"one", b"", b"three" * 10)),
    "no chunks": call("POST", content=Pieces),
    "a stream of known length": call(
        "POST", headers={"Content-Length": "8"}, content=lambda: Pieces(b"one", b"", b"three")
    ),
    "user and password": call("GET", auth=("user", "pass")),
    "cookies": call("GET", headers={"Cookie": "a=b; c=d"}),
    "chunks of bytes": call("POST", headers={"Transfer-Encoding": "chunked"}, content=b"body"),
    "no bytes in chunks": call("POST", headers={"Transfer-Encoding": "chunked"}, content=b""),
    "a target of one's own": call("OPTIONS", extensions={"target": b"*"}),
    "Host of one's own": call("GET", headers={"Host": "other.example"}),
    "Connection: close": call("GET", headers={"Connection": "close"}),
    "Expect": call("POST", headers={"Expect": "100-continue"}, content=b"body"),
    "fields as they are": with_raw_fields,
    "no fields": without_fields,
}


async def asked(transport: httpx2.AsyncBaseTransport, record: Recorder, run: Call) -> tuple[bytes, httpx2.Response]:
    async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
        response = await run(client, record.url)
    return record.wire.pop(), response


@pytest.mark.parametrize("name", CALLS)
async def test_request(name: str) -> None:
    async with recorder() as record:
        theirs, _ = await asked(httpx2.AsyncHTTPTransport(), record, CALLS[name])
        ours, response = await asked(TrioTransport(), record, CALLS[name])
        assert ours == theirs
        assert response.status_code == 200


REFUSED: dict[str, Call] = {
    "CR LF in a value": call("POST", headers={"X-A": "a\r\nX-B: b"}),
    "NUL in a value": call("POST", headers={"X-A": "a\0b"}),
    "space around a value": call("POST", headers={"X-A": " a"}),
    "a space in a name": call("POST", headers={"X A": "a"}),
    "an empty name": call("POST", headers={"": "a"}),
    "two Host fields": call("POST", headers=[("Host", "a"), ("Host", "b")]),
    "a Content-Length that is no number": call("POST", headers={"Content-Length": "+4"}, content=b"body"),
    "a coding": call("POST", headers={"Transfer-Encoding": "gzip, chunked"}, content=b"body"),
    "a target with a line end": call("GET", extensions={"target": b"/ HTTP/1.1\r\nX-A: b\r\n\r\nGET /"}),
    "a method with a space": call("GET /x"),
    "a scheme": lambda client, _: client.get("gopher://localhost/"),
    "no host": lambda client, _: client.get("http:///p"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str) -> None:
    """By the same exception; and no request arrives, not even a part that would pass for one."""
    async with recorder() as record:
        kinds = []
        for transport in (httpx2.AsyncHTTPTransport(), TrioTransport()):
            with pytest.raises(httpx2.TransportError) as caught:
                await asked(transport, record, REFUSED[name])
            kinds.append(caught.type)
    assert record.wire == []
    assert kinds[0] is kinds[1]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        # RFC 9112 section 6.2; httpx2 sends it.
        (
            {"headers": {"Content-Length": "4", "Transfer-Encoding": "chunked"}, "content": lambda: Pieces(b"body")},
            httpx2.LocalProtocolError,
        ),
        # From httpx2, h11's own exception comes out.
        ({"headers": {"Content-Length": "5"}, "content": b"body"}, httpx2.LocalProtocolError),
        ({"headers": {"Content-Length": "3"}, "content": b"body"}, httpx2.LocalProtocolError),
        ({"headers": {"Content-Length": "5"}, "content": lambda: Pieces(b"body")}, httpx2.LocalProtocolError),
        ({"headers": {"Content-Length": "3"}, "content": lambda: Pieces(b"body")}, httpx2.LocalProtocolError),
        ({"extensions": {"sni_hostname": "other.example"}}, httpx2.UnsupportedProtocol),
        ({"headers": {"Content-Length": "9" * 5_000}, "content": lambda: Pieces(b"body")}, httpx2.LocalProtocolError),
    ],
)
async def test_refused_by_us_alone(options: dict[str, Any], error: type[Exception]) -> None:
    async with recorder() as record:
        with pytest.raises(error):
            await asked(TrioTransport(), record, call("POST", **options))
    assert record.wire == []


async def test_several_requests_over_one_connection() -> None:
    async def run(client: httpx2.AsyncClient, url: str) -> httpx2.Response:
        for name in ("POST bytes", "HEAD", "chunks", "GET"):
            response = await CALLS[name](client, url)
        return response

    async with recorder() as record:
        record.answer = lambda wire: OK.removesuffix(b"ok") if wire.startswith(b"HEAD") else OK
        await asked(httpx2.AsyncHTTPTransport(), record, run)
        theirs, record.wire = record.wire, []
        await asked(TrioTransport(), record, run)
        assert record.wire == theirs
        assert record.server.connections == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://bücher.localhost/",
        "http://BÜCHER.localhost:81/p",
        "http://[::1]/",
        "http://[::1]:8080/p",
        "http://[::ffff:7f00:1]/p",
        "http://Localhost/P",
        "http://localhost:80/",
        "http://127.0.0.1./",
    ],
)
async def test_host(url: str) -> None:
    """The field is what httpx2 makes of the URL, on the wire of either."""
    async with recorder() as record:

        async def run(client: httpx2.AsyncClient, _: str) -> httpx2.Response:
            request = client.build_request("GET", url)
            return await client.get(record.url, headers={"Host": request.headers["host"]})

        theirs, _ = await asked(httpx2.AsyncHTTPTransport(), record, run)
        ours, _ = await asked(TrioTransport(), record, run)
        assert ours == theirs


async def test_ipv6_literal_is_connected_to() -> None:
    async def handle(stream: Any) -> None:
        heads.append(await read_head(stream))
        await stream.send_all(OK)

    heads: list[bytes] = []
    async with raw_server(handle, host="::1") as server, httpx2.AsyncClient(transport=TrioTransport()) as client:
        assert (await client.get(f"http://[::1]:{server.port}/")).text == "ok"
    assert f"Host: [::1]:{server.port}\r\n".encode() in heads[0]


ANSWERS = {
    "200": OK,
    "no reason": b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
    "a long reason": b"HTTP/1.1 404 Not Found, \xe9 sorry\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 Fine\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok",
    "fields": b"HTTP/1.1 200 OK\r\nX-a:1\r\nX-A:  3\t \r\nX-Empty:\r\nX-Latin: \xe9\r\nContent-Length: 2\r\n\r\nok",
    "Set-Cookie": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nContent-Length: 2\r\n\r\nok",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;a=b\r\n!\r\n0\r\nTrailer: x\r\n\r\n",
    "1xx": b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok",
    "204": b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
    "304": b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n',
    "302": b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 2\r\n\r\nok",
    "503": b"HTTP/1.1 503 Busy\r\nRetry-After: 5\r\nContent-Length: 2\r\n\r\nok",
    "gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 22\r\n\r\n"
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xcb\xcf\x06\x00\x47\xdd\xdc\x79\x02\x00\x00\x00",
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_answer(name: str) -> None:
    async with recorder() as record:
        record.answer = lambda _: ANSWERS[name]
        _, theirs = await asked(httpx2.AsyncHTTPTransport(), record, call("GET"))
        _, ours = await asked(TrioTransport(), record, call("GET"))
    assert_equal(ours, theirs)


def assert_equal(ours: httpx2.Response, theirs: httpx2.Response) -> None:
    assert ours.status_code == theirs.status_code
    assert ours.headers.raw == theirs.headers.raw
    assert ours.content == theirs.content
    assert (ours.http_version, ours.reason_phrase) == (theirs.http_version, theirs.reason_phrase)
    assert ours.extensions["http_version"] == theirs.extensions["http_version"]
    assert ours.extensions["reason_phrase"] == theirs.extensions["reason_phrase"]


@pytest.mark.parametrize("name", READ)
async def test_odd_answer(name: str) -> None:
    """What httpx2 reads, we read as it does. What we read alone has a reason, which is gone if httpx2 reads it too."""
    odd = READ[name]
    async with raw_server(says(odd.stream)) as server:
        async with httpx2.AsyncClient(transport=TrioTransport(), trust_env=False) as client:
            ours = await client.get(server.url)
        async with httpx2.AsyncClient(trust_env=False) as client:
            if odd.alone:
                with pytest.raises(httpx2.RemoteProtocolError):
                    await client.get(server.url)
                assert ours.content == odd.body
            else:
                theirs = await client.get(server.url)
                if odd.differs:
                    assert ours.headers.raw != theirs.headers.raw
                    theirs.headers = ours.headers
                assert_equal(ours, theirs)


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_answer(name: str) -> None:
    """An error, whatever part of the body has come; and there too, but for what stands in `READ_BY_HTTPX2`."""
    await assert_refused(BROKEN[name][0], is_read_there=name in READ_BY_HTTPX2)


@pytest.mark.parametrize("name", REFUSED_ANSWERS)
async def test_refused_answer(name: str) -> None:
    """Nothing that is refused here is read there, but for what stands in `READ_BY_HTTPX2`."""
    await assert_refused(REFUSED_ANSWERS[name], is_read_there=name in READ_BY_HTTPX2)


READ_BY_HTTPX2 = {
    "HTTP/0.9": "no other client reads it but Go's: 0.9 has no status line",
    "bare CR in an extension": "Go and nginx refuse it, because a CR may be taken for the end of the line",
}


async def assert_refused(stream: bytes, *, is_read_there: bool) -> None:
    async with raw_server(says(stream)) as server:
        async with httpx2.AsyncClient(transport=TrioTransport(), trust_env=False) as client:
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.get(server.url)
        async with httpx2.AsyncClient(trust_env=False) as client:
            if is_read_there:
                assert (await client.get(server.url)).content == b"ok"
            else:
                with pytest.raises(httpx2.RemoteProtocolError):
                    await client.get(server.url)
