"""The short way of checking URLs. Invariant: what it takes for normal is just what the full parser leaves as it is."""

from __future__ import annotations

import pytest
from httpx2 import URL
from hypothesis import example, given
from hypothesis import strategies as st

from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._model.urls import checked_url, normal_form

PIECES = ["http://", "https://", "a", "b.c", "A", "ex.com", "127.0.0.1", "1.2.3", "01.2.3.4", "256.1.1.1", "x--y", "-"]
PIECES += [
    ":",
    ":80",
    ":443",
    ":8080",
    ":08",
    ":65536",
    ":65535",
    ":12345",
    ":0",
    "/",
    "//",
    "/.",
    "/..",
    "/./",
    ".",
    "..",
    "?",
    "#",
    "%",
]
PIECES += [
    "%41",
    "%e4",
    "%E4",
    "%zz",
    "é",
    " ",
    "@",
    "u:p@",
    "[::1]",
    "'",
    '"',
    "<",
    "{",
    "|",
    "\\",
    "^",
    "`",
    "&",
    "=",
]
PIECES += ["a" * 63, "a" * 64, "a." * 130, "_", "~", "!", "$", "(", "*", ",", ";", "+", "?a=b&c", "/p/q-1_2"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
@example("http://127.0.0.1:8080/a/b?c=d")
@example("http://host:80/")
@example("https://host:443/")
@example("http://host:443/")
@example("http://host:8080")
def test_what_is_taken_for_normal_is_normal(text: str) -> None:
    parts = normal_form(text)
    if parts is None:
        return
    parsed = URL(text)
    assert str(parsed) == text
    assert parsed.fragment == parsed.userinfo.decode() == ""
    assert (parsed.scheme, parsed.host, parsed.netloc.decode()) == (parts["scheme"], parts["host"], parts["authority"])
    assert parsed.port == (int(parts["port"]) if parts["port"] else None)
    assert parsed.raw_path.decode() == parts["target"]
    assert checked_url(text).url == text


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_is_taken_stays_as_it_is_when_it_is_taken_again(text: str) -> None:
    try:
        url = checked_url(text).url
    except InvalidRequest:
        return
    assert checked_url(url).url == url


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:41234/hook/7?a=b", "https://api.example.com/charges/7", "http://localhost:65535/a%2Fb"]
)
def test_common_urls_take_the_short_way(url: str) -> None:
    assert normal_form(url) is not None
