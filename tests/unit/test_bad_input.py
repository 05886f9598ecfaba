"""What is refused before anything is stored: always `InvalidRequest`, naming the argument and the limit."""

import math
import re
import string
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from requeuest_trio import InvalidRequest, Request
from requeuest_trio._model.headers import RESERVED

URL = "https://api.example.com/charges"
HUGE = 10**5_000
"""An int of more digits than Python agrees to write."""


class Unrepresentable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def recursive() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def chunks() -> Iterator[bytes]:
    yield b"a"


async def async_chunks() -> AsyncIterator[bytes]:
    yield b"a"


def refused(argument: str, limit: str, **arguments: Any) -> None:
    """`Request.post` refuses the arguments, and says which one and why, in few words."""
    arguments = {"url": URL} | arguments
    with pytest.raises(InvalidRequest) as caught:
        Request.post(**arguments)
    assert caught.value.argument == argument
    assert str(caught.value).startswith(f"{argument}: ")
    assert limit in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("url", "limit"),
    [
        ("/charges", "absolute"),
        ("charges", "absolute"),
        ("", "absolute"),
        ("//api.example.com/x", "absolute"),
        ("ftp://api.example.com/x", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("javascript:alert(1)", "http or https"),
        ("http+unix://h/x", "http or https"),
        ("http:///x", "absolute"),
        ("http://", "absolute"),
        ("http://user:password@/x", "absolute"),
        ("http://h/a b", "spaces"),
        ("http://h/\r\nX: y", "control"),
        ("http://h/\0", "control"),
        ("http://h\t/", "control"),
        ("http://h/\x7f", "control"),
        ("http://h/\ud800", "surrogates"),
        (" http://h/", "spaces"),
        ("http://h:0/", "1 and 65535"),
        ("http://h:65536/", "1 and 65535"),
        ("http://h:http/", "port"),
        ("http://h:-1/", "port"),
        ("http://[::1/", "is no URL"),
        ("http://1.2.3.256/", "IPv4"),
        ("http://a..b/", "1 to 63"),
        ("http://.h/", "1 to 63"),
        ("http://h%0d%0a/", "name"),
        (f"http://{'a' * 64}.example/", "1 to 63"),
        (f"http://{'a.' * 127}ab/", "253"),
        ("http://\ufeff/", "IDNA"),
        ("http://h/" + "a" * 8_184, "8192"),
        ("http://h/" + "é" * 1_400, "8192"),
        (b"http://h/", "must be a str"),
        (None, "must be a str"),
        (7, "must be a str"),
        (True, "must be a str"),
        (["http://h/"], "must be a str"),
        (Unrepresentable(), "must be a str"),
    ],
)
def test_url(url: Any, limit: str) -> None:
    refused("url", limit, url=url)


@pytest.mark.parametrize(
    "url",
    ["http://user:s3cr3t/x@h", "http://user:s3cr3t@h:port/", "ftp://user:s3cr3t@h/", "s3cr3t@h", "http://u:s3cr3t@"],
)
def test_refusal_of_a_url_shows_no_password(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Request.get(url)
    assert "s3cr3t" not in str(caught.value).replace(repr("s3cr3t@h"), "")


def test_credentials_are_given_once() -> None:
    refused("url", "Authorization", url="http://u:p@h/", headers={"authorization": "Bearer x"})
    refused("url", "colon", url="http://u%3Av:p@h/")


@pytest.mark.parametrize("name", sorted(RESERVED | {"Host", "CONTENT-LENGTH", "Transfer-Encoding", "Connection"}))
def test_reserved_header(name: str) -> None:
    refused("headers", "set by the library", headers={name: "x"})


@pytest.mark.parametrize("char", ["\r", "\n", "\0", "\r\n", "\x0b", "\x1f", "\x7f"])
def test_control_character_in_a_header(char: str) -> None:
    refused("headers", "CR, LF, NUL", headers={"X-A": f"a{char}b"})
    refused("headers", "header name", headers={f"X-A{char}": "b"})
    refused("headers", "CR, LF, NUL", headers={"X-A": f"b{char}"})


@pytest.mark.parametrize(
    ("headers", "limit"),
    [
        ("X-A: b", "mapping or pairs"),
        (b"X-A: b", "mapping or pairs"),
        (["ab", "cd"], "mapping or pairs"),
        (["X-A"], "mapping or pairs"),
        ([("X-A", "b", "c")], "mapping or pairs"),
        ([7], "mapping or pairs"),
        (7, "mapping or pairs"),
        (0, "mapping or pairs"),
        (None, "mapping or pairs"),
        (False, "mapping or pairs"),
        ({"X-A": 7}, "str"),
        ({"X-A": None}, "str"),
        ({"X-A": b"b"}, "str"),
        ({"X-A": ["b"]}, "str"),
        ({7: "b"}, "str"),
        ({b"X-A": "b"}, "str"),
        ({"": "b"}, "header name"),
        ({"X A": "b"}, "header name"),
        ({"X-A:": "b"}, "header name"),
        ({"X-Ä": "b"}, "header name"),
        ({"X-A": "€"}, "Latin-1"),
        ({"X-A": "\ud800"}, "Latin-1"),
        ({"X" * 100_000 + "é": "b"}, "header name"),
        ({"X-A": "b" * 65_530}, "65536"),
        ([("X-A", "b")] * 10_000, "65536"),
    ],
)
def test_headers(headers: Any, limit: str) -> None:
    refused("headers", limit, headers=headers)


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), math.nan, math.inf, [-math.inf], b"x", {(1,): 2}, [HUGE], "\ud800", recursive(), datetime.now],
)
def test_json(value: Any) -> None:
    refused("json", "can't be written as JSON", json=value)


@pytest.mark.parametrize("argument", ["form", "params"])
@pytest.mark.parametrize(
    ("value", "limit"),
    [
        ("a=b", "mapping or pairs"),
        (b"a=b", "mapping or pairs"),
        (7, "mapping or pairs"),
        (["ab"], "mapping or pairs"),
        ([("a", "b", "c")], "mapping or pairs"),
        ([{"a", "b"}], "mapping or pairs"),
        ({7: "a"}, "names must be str"),
        ({"a": object()}, "str, int, float, bool or None"),
        ({"a": b"x"}, "str, int, float, bool or None"),
        ({"a": [["x"]]}, "str, int, float, bool or None"),
        ({"a": Unrepresentable()}, "str, int, float, bool or None"),
        ({"a": "\ud800"}, "UTF-8"),
        ({"\ud800": "a"}, "UTF-8"),
        ({"a": HUGE}, "digits"),
    ],
)
def test_form_and_params(argument: str, value: Any, limit: str) -> None:
    refused(argument, limit, **{argument: value})


def test_params_count_for_the_limit_of_the_url() -> None:
    refused("url", "8192", params={"a": "b" * 8_200})


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (chunks(), "stream"),
        (async_chunks(), "stream"),
        ([b"a"], "stream"),
        (range(3), "stream"),
        ({"a": "b"}, "must be bytes"),
        (7, "must be bytes"),
        (True, "must be bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_content(content: Any, limit: str) -> None:
    refused("content", limit, content=content)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("data", "write form= or content="),
        ("body", "write content="),
        ("auth", 'write headers={"Authorization": ...}'),
        ("jsn", "it has accept, content, follow_redirects, form, headers, json, params, timeout"),
    ],
)
def test_an_option_that_there_is_not(option: str, text: str) -> None:
    options: Any = {option: b""}
    with pytest.raises(TypeError, match=re.escape(f"Request.post() has no option {option!r}: {text}") + "$"):
        Request.post(URL, **options)


def test_body_is_not_text() -> None:
    with pytest.raises(InvalidRequest, match=r"^body: must be bytes, not str"):
        Request("POST", URL, body="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("bodies", [{"json": 1, "form": {}}, {"json": 0, "content": b""}, {"form": {}, "content": ""}])
def test_one_body_only(bodies: dict[str, Any]) -> None:
    refused(list(bodies)[1], f"is given together with {next(iter(bodies))}", **bodies)


@pytest.mark.parametrize(
    "method",
    ["TRACE", "CONNECT", "", "GET ", "GET\r\n", "po\u017ft", None, 7, b"GET", True, "X" * 100_000, Unrepresentable()],
)
def test_method(method: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^method: must be one of DELETE, GET") as caught:
        Request(method, URL)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("accept", "limit"),
    [
        ((), "at least one"),
        ([], "at least one"),
        (range(300, 200), "at least one"),
        (99, "100 and 599"),
        (600, "100 and 599"),
        (-200, "100 and 599"),
        pytest.param(HUGE, "100 and 599", id="huge"),
        (range(200, 601), "100 and 599"),
        (range(300), "100 and 599"),
        (range(200, 300, 2), "step 1"),
        ("200", "status codes"),
        (["200"], "status codes"),
        (b"\xc8", "status codes"),
        (True, "status codes"),
        ([True], "status codes"),
        (200.0, "status codes"),
        ([200.0], "status codes"),
        (None, "status codes"),
        ([None], "status codes"),
        ([[200]], "status codes"),
        (Unrepresentable(), "status codes"),
    ],
)
def test_accept(accept: Any, limit: str) -> None:
    refused("accept", limit, accept=accept)


@pytest.mark.parametrize(
    ("timeout", "limit"),
    [
        (0, "more than 0"),
        (-1, "more than 0"),
        (-math.inf, "more than 0"),
        (timedelta(0), "more than 0"),
        (timedelta(days=-1), "more than 0"),
        (math.nan, "ten years"),
        (math.inf, "ten years"),
        (1e10, "ten years"),
        pytest.param(HUGE, "ten years", id="huge"),
        (timedelta.max, "ten years"),
        (True, "seconds or a timedelta"),
        ("3", "seconds or a timedelta"),
        (Decimal(3), "seconds or a timedelta"),
        ([3], "seconds or a timedelta"),
        (1j, "seconds or a timedelta"),
    ],
)
def test_timeout(timeout: Any, limit: str) -> None:
    refused("timeout", limit, timeout=timeout)


@pytest.mark.parametrize("value", [None, 0, 1, "yes", []])
def test_follow_redirects(value: Any) -> None:
    refused("follow_redirects", "bool", follow_redirects=value)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([object(), timedelta(1), Decimal("NaN"), range(200, 204)])
    | st.just(5_000).map(lambda digits: 10**digits)
    | st.builds(Unrepresentable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
URL_PARTS = st.sampled_from([
    "http", "https", "://",
    ":", "/", "//", "@", "?", "#", "[", "]", "::1", "%", "%2f", "%zz", "..", ".", "é", "ß", "\uff11",
    "xn--", "-", "_", "localhost", "\\", "\r", "\n", "\0", " ", "\ud800", "\u2028", "\u200d", "0x7f.1", "65536", "80",
    "http://h", "&a=b", "+",
])  # fmt: skip
URLS = st.lists(URL_PARTS | st.text(max_size=3), max_size=12).map("".join) | st.text(max_size=60)


@given(url=URLS, header=st.tuples(st.text(max_size=10), st.text(max_size=10)))
@example(url="http://h:\u0661/", header=("a", "b"))
@example(url="http://xn--a/", header=("a", "b"))
@example(url="http://[fe80::1%25eth0]/", header=("a", "b"))
@example(url="http://h?\ud800", header=("a", "\x85"))
def test_any_text_is_refused_or_made_sendable(url: str, header: tuple[str, str]) -> None:
    """Never another exception than `InvalidRequest`; and what is accepted is plain ASCII without anything to break."""
    try:
        request = Request.get(url, headers=[header])
    except InvalidRequest as error:
        argument = error.argument
    else:
        argument = "url"
        assert request.url.isascii()
        assert not set(request.url) & set(string.whitespace + "\0#")
        assert request.url.startswith(("http://", "https://"))
        assert request.headers[0] == (header[0], header[1].strip(" \t"))
    assert argument in {"url", "headers"}


@given(
    arguments=st.dictionaries(
        st.sampled_from(
            ["url", "headers", "params", "json", "form", "content", "accept", "timeout", "follow_redirects"]
        ),
        ANYTHING,
    )
)
def test_any_argument_is_refused_or_taken(arguments: dict[str, Any]) -> None:
    arguments = {"url": URL} | arguments
    try:
        Request.post(**arguments)
        argument = "url"
    except InvalidRequest as error:
        argument = error.argument
    assert argument in arguments
