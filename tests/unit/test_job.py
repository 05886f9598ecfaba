"""What the public calls return."""

import gzip
import time
from dataclasses import FrozenInstanceError

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio import JobState, Request, Stats
from requeuest_trio._model.job import make_response
from requeuest_trio._model.states import FINISHED
from tests.unit.values import make_job

REQUEST = Request.post("https://api.example.com/charges", json={"order": 7}, headers={"X-A": "b"})


@pytest.mark.parametrize("state", JobState)
def test_is_finished(state: JobState) -> None:
    assert make_job(state=state).is_finished == (state in FINISHED)


def test_job_is_frozen_and_keyword_only() -> None:
    job = make_job()
    assert job == make_job()
    with pytest.raises(FrozenInstanceError):
        job.state = JobState.DEAD  # type: ignore[misc]


def test_stats_count_over_all_channels() -> None:
    stats = Stats(
        channels={"a": {JobState.DEAD: 2, JobState.AVAILABLE: 1}, "b": {JobState.DEAD: 3}},
        running=0,
        unrecorded=0,
        loop_lag=0.0,
    )
    assert {state: stats.count(state) for state in JobState if stats.count(state)} == {
        JobState.DEAD: 5,
        JobState.AVAILABLE: 1,
    }


def test_response_is_that_of_the_receiver() -> None:
    headers = (("Content-Type", "application/json; charset=utf-8"), ("X-A", "é"), ("x-a", "2"))
    response = make_response(201, headers, b'{"a": 1}', REQUEST, truncated=True)
    assert (response.status_code, response.json(), response.extensions["truncated"]) == (201, {"a": 1}, True)
    assert response.headers.raw == [
        (b"Content-Type", b"application/json; charset=utf-8"),
        (b"X-A", b"\xe9"),
        (b"x-a", b"2"),
    ]


def test_response_knows_its_request() -> None:
    """So that `raise_for_status` works."""
    response = make_response(409, (), b"", REQUEST, truncated=False)
    assert (response.request.method, str(response.url)) == ("POST", "https://api.example.com/charges")
    assert response.request.headers["x-a"] == "b"
    with pytest.raises(httpx2.HTTPStatusError):
        response.raise_for_status()


def test_response_is_never_decoded_again() -> None:
    """Neither a body that was kept as it came, nor one that only says so."""
    body = gzip.compress(b"text")
    for content in (body, b"text"):
        response = make_response(200, (("Content-Encoding", "gzip"),), content, REQUEST, truncated=False)
        assert response.content == content
        assert response.headers["content-encoding"] == "gzip"


TEXTS = [
    ("text/plain", "é".encode(), "é"),
    ("text/plain; charset=ISO-8859-1", b"\xe9", "é"),
    ('text/plain; format=flowed; Charset="windows-1252"; x=y', b"\x80", "€"),
    ("text/plain; charset=Shift_JIS", "日本".encode("shift_jis"), "日本"),
    ("text/plain; charset=utf-16", "é".encode("utf-16-le"), "é"),
    ("text/plain; charset=utf-16", "é".encode("utf-16"), "é"),
    ("text/plain; charset=utf-8", b"\xff!", "\ufffd!"),
    ("text/plain; charset=us-ascii", b"\xff!", "\ufffd!"),
]
NO_TEXTS = [
    "zlib_codec", "zip", "bz2", "hex", "base64", "uu", "quopri", "rot13", "idna", "punycode", "undefined",
    "unicode_escape", "raw_unicode_escape", "utf-7", "utf-32", "hz", "nope", "", "..", "aliases", "a\0b",
    "x" * 100_000, "utf-8" + ";" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize(("content_type", "body", "text"), TEXTS)
def test_text_is_in_the_encoding_that_the_receiver_names(content_type: str, body: bytes, text: str) -> None:
    response = make_response(200, (("content-type", content_type),), body, REQUEST, truncated=False)
    assert response.text == text


@pytest.mark.parametrize("charset", NO_TEXTS)
def test_text_is_utf_8_if_what_the_receiver_names_is_no_encoding_of_text(charset: str) -> None:
    """Some of these raise whatever they like, or take the square of the length."""
    body = "é".encode() + b"\xff" + b"a" * 200_000
    response = make_response(200, (("Content-Type", f"text/x; charset={charset}"),), body, REQUEST, truncated=False)
    began = time.process_time()
    assert response.text == "é\ufffd" + "a" * 200_000
    assert "é\ufffda" in "".join(response.iter_text())
    assert time.process_time() - began < 0.5


@given(
    status=st.integers(-(2**31), 2**31 - 1),
    headers=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=3).map(tuple),
    body=st.binary(max_size=9),
)
def test_damaged_row_still_makes_a_response(status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
    response = make_response(status, headers, body, REQUEST, truncated=False)
    assert (response.status_code, response.content, len(response.headers.raw)) == (status, body, len(headers))
