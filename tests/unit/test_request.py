"""A request as a value: how it is made, and what it is equal to. What is refused stands in `test_bad_input.py`."""

import copy
import dataclasses
import pickle
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio import InvalidRequest, Request, StatusClass
from requeuest_trio._model.request import METHODS

URL = "https://api.example.com/charges"
FORM = ("Content-Type", "application/x-www-form-urlencoded")
JSON = ("Content-Type", "application/json")

BUILDERS: dict[str, Callable[..., Request]] = {
    "GET": Request.get,
    "HEAD": Request.head,
    "OPTIONS": Request.options,
    "DELETE": Request.delete,
    "POST": Request.post,
    "PUT": Request.put,
    "PATCH": Request.patch,
}


def test_every_method_has_a_builder() -> None:
    assert BUILDERS.keys() == METHODS


@pytest.mark.parametrize("method", sorted(METHODS))
def test_builder_makes_what_the_constructor_makes(method: str) -> None:
    built = BUILDERS[method](
        URL,
        headers={"X-A": "1"},
        content=b"body",
        accept=[StatusClass.SUCCESS, 409],
        timeout=timedelta(seconds=3),
        follow_redirects=True,
    )
    made = Request(
        method.lower(),
        URL,
        headers=[("X-A", "1")],
        body=b"body",
        accept=(409, range(200, 300)),
        timeout=3,
        follow_redirects=True,
    )
    assert built == made
    assert (built.method, built.url, built.body, built.timeout) == (method, URL, b"body", 3.0)


def test_defaults() -> None:
    request = Request.get(URL)
    assert dataclasses.astuple(request) == ("GET", URL, (), b"", (range(200, 300),), None, False)


@pytest.mark.parametrize(
    ("url", "params", "expected"),
    [
        ("http://h/p", {"a": "1"}, "http://h/p?a=1"),
        ("http://h", {"a": "1"}, "http://h?a=1"),
        ("http://h/p?", {"a": "1"}, "http://h/p?a=1"),
        ("http://h/p?x=%2f&y&a=0", {"a": "1"}, "http://h/p?x=%2f&y&a=0&a=1"),
        ("http://h/p#part", {"a": 1}, "http://h/p?a=1"),
        ("http://h/p", {"a": [1, 2], "b": True, "c": None, "d": 1.5}, "http://h/p?a=1&a=2&b=true&c=&d=1.5"),
        ("http://h/p", [("b", "1"), ("a", "2"), ("b", "3")], "http://h/p?b=1&a=2&b=3"),
        ("http://h/p", {"ä b": "&=+#é\n"}, "http://h/p?%C3%A4+b=%26%3D%2B%23%C3%A9%0A"),
        ("http://h/p?x=1", {}, "http://h/p?x=1"),
        ("http://h/p", (), "http://h/p"),
    ],
)
def test_params_go_to_the_end_of_the_query_and_leave_the_rest_alone(url: str, params: Any, expected: str) -> None:
    assert Request.get(url, params=params).url == expected


@pytest.mark.parametrize(
    ("options", "body", "headers"),
    [
        ({"json": {"a": [1, None, "é"]}}, '{"a":[1,null,"é"]}'.encode(), (JSON,)),
        ({"json": None, "form": None, "content": None}, b"", ()),
        ({"json": None, "content": "null", "headers": [JSON]}, b"null", (JSON,)),
        ({"json": 0}, b"0", (JSON,)),
        ({"json": 1, "headers": {"content-type": "x/y"}}, b"1", (("content-type", "x/y"),)),
        ({"form": {"a": "1 2", "b": ["x", "y"]}}, b"a=1+2&b=x&b=y", (FORM,)),
        ({"form": [("a", True), ("a", None)]}, b"a=true&a=", (FORM,)),
        ({"form": {}}, b"", (FORM,)),
        ({"content": "é"}, "é".encode(), ()),
        ({"content": bytearray(b"\0\xff")}, b"\0\xff", ()),
        ({"content": memoryview(b"abc")[::2]}, b"ac", ()),
        ({}, b"", ()),
    ],
)
def test_body(options: dict[str, Any], body: bytes, headers: tuple[tuple[str, str], ...]) -> None:
    request = Request.post(URL, **options)
    assert (request.body, request.headers) == (body, headers)


def test_headers_keep_order_case_and_repeats() -> None:
    pairs = (("x-B", "2"), ("X-a", "1"), ("x-b", "3"), ("X-Empty", ""), ("X-Latin", "é\x80"))
    assert Request.get(URL, headers=pairs).headers == pairs
    assert Request.get(URL, headers=iter(pairs)).headers == pairs
    assert Request.get(URL, headers={"B": "1", "A": "2"}).headers == (("B", "1"), ("A", "2"))


def test_outer_spaces_of_a_header_value_are_not_part_of_it() -> None:
    """RFC 9110 section 5.5: no receiver may see them."""
    assert Request.get(URL, headers={"A": " \tx y\t "}).headers == (("A", "x y"),)


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_headers_of_httpx_keep_case_and_repeats(library: Any) -> None:
    pairs = [("Cookie", "a=1"), ("X-Some", "é"), ("cookie", "b=2")]
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in pairs]
    assert Request.get(URL, headers=library.Headers(encoded)).headers == tuple(pairs)


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_url_objects_are_taken_as_text(library: Any) -> None:
    assert Request.get(library.URL(URL), params={"a": 1}).url == URL + "?a=1"


@pytest.mark.parametrize(
    ("given_url", "kept"),
    [
        ("HTTPS://API.Example.COM:443/A?b#c", "https://api.example.com/A?b"),
        ("http://h:8080", "http://h:8080"),
        ("http://h/a/../b/./c", "http://h/b/c"),
        ("http://h/é%2f%C3?q=é'\"", "http://h/%C3%A9%2f%C3?q=%C3%A9'%22"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[::1]:80/", "http://[::1]/"),
        ("http://h./", "http://h./"),
    ],
)
def test_url_is_kept_as_it_is_sent(given_url: str, kept: str) -> None:
    request = Request.get(given_url)
    assert request.url == kept
    assert dataclasses.replace(request) == request


def test_user_and_password_of_the_url_become_a_header() -> None:
    """So that no URL in the database, in a log or in an error holds a secret."""
    request = Request.get("https://ada%20l:p%40ss%C3%A9@api.example.com/x")
    token = b64encode("ada l:p@ssé".encode()).decode()
    assert request.url == "https://api.example.com/x"
    assert request.headers == (("Authorization", f"Basic {token}"),)
    assert "p@ss" not in repr(request)
    assert token not in repr(request)


def test_a_value_in_all_that_python_asks_of_one() -> None:
    request = Request.post(URL, json={"order": 7}, headers={"A": "b"}, timeout=3, accept=[200, range(300, 304)])
    same = Request.post(URL, json={"order": 7}, headers={"A": "b"}, timeout=3.0, accept=[range(300, 304), 200])
    assert request == same
    assert hash(request) == hash(same)
    assert len({request, same}) == 1
    for twin in (copy.copy(request), copy.deepcopy(request), pickle.loads(pickle.dumps(request))):
        assert twin == request
    assert request != Request.put(URL, json={"order": 7}, headers={"A": "b"}, timeout=3, accept=request.accept)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.method = "PUT"  # type: ignore[misc]
    assert dataclasses.replace(request, method="put", body=b"x") == Request(
        "PUT", URL, headers=request.headers, body=b"x", timeout=3, accept=request.accept
    )


def test_replacing_a_field_is_checked_like_making_a_request() -> None:
    with pytest.raises(InvalidRequest, match=r"^url: "):
        dataclasses.replace(Request.get(URL), url="/relative")


def test_builder_refuses_an_unknown_option_like_any_function() -> None:
    with pytest.raises(TypeError, match=r"no option 'jsn'"):
        Request.post(URL, jsn={})  # type: ignore[call-arg]


SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "Proxy-Authorization", "Cookie", "X-Auth-Token", "X-API-Key", "apikey", "X-Access-Key",
        "Ocp-Apim-Subscription-Key", "X-Client-Secret", "X-Hub-Signature-256", "X-Auth", "Cf-Access-Jwt-Assertion",
        "OK-ACCESS-PASSPHRASE", "X-Password", "X-Session-Id", "X-Credential",
    ],
)  # fmt: skip
def test_repr_shows_no_secret(name: str) -> None:
    request = Request.post(
        f"https://user:{SECRET}@h/path?api_key={SECRET}&access_token={SECRET}&page=2",
        headers={name: SECRET} if "uthorization" not in name else {},
        content=SECRET,
    )
    assert SECRET not in repr(request)
    assert "page=2" in repr(request)
    assert SECRET not in repr(Request.get(URL, headers={name: SECRET}))


def test_repr_shows_what_is_no_secret() -> None:
    request = Request.post(URL, headers={"Idempotency-Key": "order-7", "Accept": "text/plain"}, content=b"12345")
    assert repr(request) == (
        f"<Request POST {URL} headers={{'Idempotency-Key': 'order-7', 'Accept': 'text/plain'}} body=5 bytes>"
    )


def test_repr_of_a_damaged_row_is_safe_too() -> None:
    """`restored` checks nothing, and a DSN-like text is the worst that can stand in a URL."""
    request = Request.restored("X", f"http://u:p@{SECRET}@h/", (), b"", (), None, False)
    assert SECRET not in repr(request)


# --- from_httpx -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_request_made_by_hand(library: Any) -> None:
    theirs = library.Request("POST", URL, params={"a": "1"}, headers=[("X-B", "1"), ("x-b", "2")], json={"order": 7})
    ours = Request.from_httpx(theirs)
    assert (ours.method, ours.url, ours.body) == ("POST", URL + "?a=1", theirs.content)
    assert ours.headers == (("X-B", "1"), ("x-b", "2"), ("Content-Type", "application/json"))


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_request_built_by_a_client_keeps_the_clients_headers(library: Any) -> None:
    with library.Client(base_url="https://api.example.com", headers={"X-Team": "billing"}) as client:
        ours = Request.from_httpx(client.build_request("PUT", "/charges", content=b"x"))
    assert (ours.method, ours.url, ours.body) == ("PUT", URL, b"x")
    names = {name.lower() for name, _ in ours.headers}
    assert names == {"accept", "accept-encoding", "user-agent", "x-team"}


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_request_with_files_is_taken_once_it_was_read(library: Any) -> None:
    theirs = library.Request("POST", URL, files={"f": b"data"})
    with pytest.raises(InvalidRequest, match=r"^request: its body is a stream"):
        Request.from_httpx(theirs)
    theirs.read()
    assert Request.from_httpx(theirs).body == theirs.content


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_streaming_body_is_refused(library: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^request: its body is a stream"):
        Request.from_httpx(library.Request("POST", URL, content=iter([b"a", b"b"])))


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("url", "host", "taken"),
    [
        ("https://api.example.com/", "api.example.com", True),
        ("https://api.example.com/", "API.example.com:443", True),
        ("http://api.example.com:81/", "api.example.com:81", True),
        ("http://bücher.example/", "xn--bcher-kva.example", True),
        ("http://[::1]:81/", "[::1]:81", True),
        ("https://api.example.com/", "evil.example.com", False),
        ("https://api.example.com/", "api.example.com:80", False),
    ],
)
def test_host_header_must_be_that_of_the_url(library: Any, url: str, host: str, taken: bool) -> None:
    """It can't be kept, and dropping another one would send the request elsewhere than was meant."""
    theirs = library.Request("GET", url, headers={"Host": host})
    if taken:
        assert Request.from_httpx(theirs).headers == ()
    else:
        with pytest.raises(InvalidRequest, match=r"^request: its Host header"):
            Request.from_httpx(theirs)


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_method_that_is_not_ours_is_refused(library: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^method: "):
        Request.from_httpx(library.Request("TRACE", URL))


@pytest.mark.parametrize("other", [None, URL, object(), Request.get(URL)])
def test_from_httpx_refuses_other_things(other: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^request: "):
        Request.from_httpx(other)


@given(
    url=st.text(max_size=20).map(lambda tail: "http://h/" + tail) | st.text(max_size=40),
    headers=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=3),
    body=st.binary(max_size=8),
)
def test_what_is_accepted_is_accepted_again_and_unchanged(
    url: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    """A row that was stored must be readable: what is normal stays as it is."""
    try:
        request = Request("POST", url, headers=headers, body=body)
    except InvalidRequest:
        return
    assert dataclasses.replace(request) == request


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_timeouts_of_a_client_are_kept(library: Any) -> None:
    def kept(**options: Any) -> float | None:
        return Request.from_httpx(library.AsyncClient(**options).build_request("GET", URL)).timeout

    assert kept(timeout=3) == 3.0
    assert kept(timeout=library.Timeout(5, read=60)) == 60.0
    assert kept(timeout=None) is None
    assert kept(timeout=library.Timeout(5, read=None)) is None
    assert Request.from_httpx(library.Request("GET", URL)).timeout is None


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    "extension", [{"target": b"*"}, {"sni_hostname": "other.example"}, {"trace": print}, {"unknown": 1}]
)
def test_an_extension_that_cannot_be_kept_is_refused(library: Any, extension: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=rf"^request: its extension '{next(iter(extension))}' can't be kept"):
        Request.from_httpx(library.Request("GET", URL, extensions=extension))


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_an_extension_that_changes_nothing_is_taken(library: Any) -> None:
    theirs = library.Request("GET", "http://h/x?y", extensions={"target": b"/x?y", "sni_hostname": "h"})
    assert Request.from_httpx(theirs).url == "http://h/x?y"


@pytest.mark.parametrize("name", ["Content_Length", "transfer_encoding", "HOST", "Content.Length", "Keep_Alive"])
def test_a_field_that_others_take_for_a_reserved_one_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="set by the library"):
        Request.get(URL, headers={name: "7"})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1\\@example.com", "http:\\\\h/", "http://h\\x", "http://h/a\\..\\b", "http://a\\b@h/"]
)
def test_a_backslash_is_refused(url: str) -> None:
    """Half of the world's clients take it for a slash."""
    with pytest.raises(InvalidRequest, match=r"^url: .*backslash"):
        Request.get(url)
