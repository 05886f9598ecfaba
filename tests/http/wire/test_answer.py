"""An answer means the same however its bytes come, ends where RFC 9112 section 6.3 says, and never in doubt.

What follows it, or can be read in two ways, costs the connection; what is no HTTP/1.1 is a problem, never an exception.
"""

import time
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from requeuest_trio._http.wire.answer import MAX_HEAD_BYTES, MAX_INFORMATIONAL, AnswerParser
from requeuest_trio._http.wire.heads import MAX_HEADERS
from tests.http.odd_answers import BROKEN, CHUNKED, LENGTH, OK, READ, REFUSED


class Read(NamedTuple):
    """What was understood of an answer."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    is_complete: bool
    is_reusable: bool
    problem: str | None


def read(pieces: Iterable[bytes], *, is_head: bool = False, parser: AnswerParser | None = None) -> Read:
    """Feed the pieces to a parser; then, if the answer still waits for more, the end of the connection."""
    parser = parser or AnswerParser()
    parser.expect(is_head=is_head)
    for piece in pieces:
        if parser.problem is None:
            parser.feed(piece)
        while parser.has_more:
            parser.go_on()
    if not parser.is_complete and parser.problem is None:
        parser.feed_eof()
    return Read(
        parser.head.status,
        parser.head.reason,
        parser.head.fields,
        b"".join(parser.pieces),
        parser.is_complete,
        parser.is_reusable,
        parser.problem,
    )


def one(stream: bytes, *, is_head: bool = False) -> Read:
    return read([stream], is_head=is_head)


# --- where a body ends (RFC 9112 section 6.3) -------------------------------------------------------------------------

WHOLE = {
    "Content-Length": (LENGTH + b"ok", b"ok", True),
    "Content-Length with space around": (OK + b"Content-Length: \t2 \t\r\n\r\nok", b"ok", True),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "until the end": (OK + b"\r\nok", b"ok", False),
    "nothing until the end": (OK + b"\r\n", b"", False),
    "chunked": (CHUNKED + b"2\r\nok\r\n3\r\n, o\r\n1\r\nk\r\n0\r\n\r\n", b"ok, ok", True),
    "chunked, any case": (OK + b"TRANSFER-ENCODING: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789", True),
    "chunked, leading zeros": (CHUNKED + b"0002\r\nok\r\n000\r\n\r\n", b"ok", True),
    "chunked, empty": (CHUNKED + b"0\r\n\r\n", b"", True),
    "chunk extensions (7.1.1)": (CHUNKED + b'2;a=b;c;d="e;f"\r\nok\r\n0;last\r\n\r\n', b"ok", True),
    "trailers (7.1.2)": (CHUNKED + b"2\r\nok\r\n0\r\nDigest: x\r\nExpires: y\r\n\r\n", b"ok", True),
    "204 with Content-Length": (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", b"", True),
    "204 with Transfer-Encoding": (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"", True),
    "304 with Content-Length": (b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", b"", True),
    "304 with Transfer-Encoding": (b"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"", True),
    "205 is framed as any other": (b"HTTP/1.1 205 R\r\nContent-Length: 0\r\n\r\n", b"", True),
    "no reason phrase": (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", b"ok", True),
    "no space either": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
    "an unknown status (9110 15)": (b"HTTP/1.1 799 Odd\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
    "Connection: close (9.6)": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "close among others": (OK + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "close in a second field": (OK + b"Connection: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b"", False),
    "upgrade offered (9110 7.8)": (OK + b"Connection: Upgrade\r\nUpgrade: h2\r\nContent-Length: 0\r\n\r\n", b"", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "HTTP/1.0 until the end": (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok", False),
    "HTTP/1.0 keep-alive (9.3)": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok", True,
    ),
    "HTTP/1.0 with a coding (6.1)": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", False,
    ),
    "1xx before (9110 15.2)": (
        b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 199 ?\r\n\r\n" + LENGTH + b"ok",
        b"ok", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_whole_answer(name: str) -> None:
    stream, body, is_reusable = WHOLE[name]
    answer = one(stream)
    assert (answer.problem, answer.is_complete) == (None, True)
    assert (answer.body, answer.is_reusable) == (body, is_reusable)


@pytest.mark.parametrize("name", WHOLE)
def test_cut_at_every_byte(name: str) -> None:
    """In two pieces it is the same; without the second it is a problem, unless the end of the connection ends it."""
    stream, *_ = WHOLE[name]
    whole = one(stream)
    for at in range(1, len(stream)):
        assert read([stream[:at], stream[at:]]) == whole
        cut = one(stream[:at])
        ends_itself = whole.is_reusable or b"content-length" in stream.lower() or b"chunked" in stream.lower()
        if ends_itself or b"\r\n\r\n" not in stream[:at]:
            assert cut.problem is not None, stream[:at]
            assert not cut.is_complete
        else:
            assert whole.body.startswith(cut.body)


@pytest.mark.parametrize("name", WHOLE)
def test_byte_by_byte(name: str) -> None:
    stream, *_ = WHOLE[name]
    assert read(stream[at : at + 1] for at in range(len(stream))) == one(stream)


TOKENS = st.text("abcXYZ-09!#~", min_size=1, max_size=8).map(lambda text: b"X-" + text.encode())
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=12).map(
    lambda text: text.encode("latin-1")
)
FIELDS = st.lists(st.tuples(TOKENS, VALUES), max_size=5)


def lines(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Any right answer, and the body that it carries."""
    before = b"".join(
        b"HTTP/1.1 %d Wait\r\n%b\r\n" % (draw(st.sampled_from([100, 102, 103, 104])), lines(draw(FIELDS)))
        for _ in range(draw(st.integers(0, 3)))
    )
    head = before + b"HTTP/1.1 %d %b\r\n" % (draw(st.sampled_from([200, 201, 404, 503])), draw(VALUES))
    head += lines(draw(FIELDS))
    body = draw(st.binary(max_size=60))
    match draw(st.sampled_from(["length", "chunked", "end"])):
        case "length":
            return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, body
        case "chunked":
            cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=4))})
            extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b"']))
            chunks = [body[start:end] for start, end in pairwise(cuts)]
            framed = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
            trailer = lines(draw(FIELDS))
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n" + trailer + b"\r\n", body
        case _:
            return head + b"\r\n" + body, body


@given(streams(), st.lists(st.integers(min_value=0, max_value=1_000), max_size=12))
@example((CHUNKED + b"1\r\nx\r\n0\r\n\r\n", b"x"), [45, 46, 47, 48, 49, 50])
def test_any_split_reads_equal(answer: tuple[bytes, bytes], cuts: list[int]) -> None:
    stream, body = answer
    whole = one(stream)
    assert (whole.problem, whole.body, whole.is_complete) == (None, body, True)
    places = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    assert read(stream[start:end] for start, end in pairwise(places)) == whole


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=10), st.booleans())
@example([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"-1\r\n"], False)
def test_anything_at_all_raises_nothing(pieces: list[bytes], is_head: bool) -> None:
    read([b"HTTP/1.1 200 OK\r\n", *pieces], is_head=is_head)
    read(pieces, is_head=is_head)


@given(st.lists(streams(), min_size=2, max_size=4))
def test_answers_over_one_connection_do_not_touch_each_other(answers: list[tuple[bytes, bytes]]) -> None:
    parser = AnswerParser()
    for stream, body in answers:
        answer = read([stream], parser=parser)
        assert answer.body == body
        assert answer == one(stream)
        if not answer.is_reusable:
            break


# --- answers to HEAD (RFC 9110 section 9.3.2) -------------------------------------------------------------------------

HEADS = {
    "Content-Length": OK + b"Content-Length: 5\r\n\r\n",
    "chunked": CHUNKED,
    "neither": OK + b"\r\n",
    "304": b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n",
    "1xx before": b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" + LENGTH,
}


@pytest.mark.parametrize("name", HEADS)
def test_answer_to_head_ends_with_its_head(name: str) -> None:
    for pieces in ([HEADS[name]], [HEADS[name][at : at + 1] for at in range(len(HEADS[name]))]):
        answer = read(pieces, is_head=True)
        assert (answer.problem, answer.body, answer.is_complete, answer.is_reusable) == (None, b"", True, True)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    "rest", [b"hello", b"5", b"5\r", b"5\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_bytes_after_the_answer_to_head_cost_the_connection(name: str, rest: bytes) -> None:
    answer = one(HEADS[name] + rest, is_head=True)
    assert (answer.problem, answer.body, answer.is_complete, answer.is_reusable) == (None, b"", True, False)


@pytest.mark.parametrize("name", HEADS)
def test_after_head_comes_an_answer_with_a_body(name: str) -> None:
    parser = AnswerParser()
    assert read([HEADS[name]], is_head=True, parser=parser).is_reusable
    assert read([LENGTH + b"ok"], parser=parser).body == b"ok"
    assert read([HEADS[name]], is_head=True, parser=parser).is_reusable


def test_answer_to_head_that_closes() -> None:
    assert not one(OK + b"Connection: close\r\nContent-Length: 5\r\n\r\n", is_head=True).is_reusable
    assert not one(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", is_head=True).is_reusable


# --- bytes left over (RFC 9112 section 9.3: they may be an answer to a request that was never sent) -------------------


@pytest.mark.parametrize("rest", [b"x", b"H", b"HTTP/1.1 200 Smuggled\r\nContent-Length: 0\r\n\r\n", b"\0", b"\r\nx"])
@pytest.mark.parametrize("name", [name for name, (*_, is_reusable) in WHOLE.items() if is_reusable])
def test_bytes_left_over_cost_the_connection(name: str, rest: bytes) -> None:
    stream, body, _ = WHOLE[name]
    for pieces in ([stream + rest], [stream, rest], [stream[:-1], stream[-1:] + rest]):
        answer = read(pieces)
        assert (answer.problem, answer.body, answer.is_complete, answer.is_reusable) == (None, body, True, False)
        assert answer.headers == one(stream).headers
        assert answer.reason == one(stream).reason


def test_empty_line_left_over_is_no_harm() -> None:
    """It can't be taken for the beginning of an answer."""
    parser = AnswerParser()
    assert read([LENGTH + b"ok\r\n"], parser=parser).body == b"ok"
    assert read([LENGTH + b"no"], parser=parser).body == b"no"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READ)
def test_read_all_the_same(name: str) -> None:
    odd = READ[name]
    whole = one(odd.stream)
    assert (whole.problem, whole.body, whole.is_complete) == (None, odd.body, True)
    assert whole.is_reusable == odd.is_reusable


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    answer = one(REFUSED[name])
    assert answer.problem is not None
    assert (answer.status, answer.body, answer.is_complete, answer.is_reusable) == (0, b"", False, False)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_off(name: str) -> None:
    """Status and fields are there, and as much of the body as came."""
    stream, body = BROKEN[name]
    answer = one(stream)
    assert answer.problem is not None
    assert (answer.status, answer.body, answer.is_complete, answer.is_reusable) == (200, body, False, False)


STREAMS = {name: odd.stream for name, odd in READ.items()} | REFUSED | {name: BROKEN[name][0] for name in BROKEN}


@pytest.mark.parametrize("name", STREAMS)
def test_however_it_comes(name: str) -> None:
    """In two pieces, cut anywhere, and byte by byte."""
    stream = STREAMS[name]
    whole = one(stream)
    assert read(stream[at : at + 1] for at in range(len(stream))) == whole
    for at in range(1, len(stream)):
        assert read([stream[:at], stream[at:]]) == whole


def test_a_folded_line_is_one_field() -> None:
    """RFC 9112 section 5.2: one or more spaces stand for the fold."""
    assert one(OK + b"X-A: b \t\r\n \t c\r\n\td\r\nX-B: e\r\n \r\nContent-Length: 0\r\n\r\n").headers == [
        (b"X-A", b"b c d"), (b"X-B", b"e"), (b"Content-Length", b"0"),
    ]  # fmt: skip


def test_what_is_no_field_is_left_out() -> None:
    stream = OK + b" X-0: a\r\nX-1\r\n: b\r\nX 2: c\r\nX-3 \t: d\r\nContent-Length: 0\r\n\r\n"
    assert one(stream).headers == [(b"X-3", b"d"), (b"Content-Length", b"0")]


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "item", "problem"),
    [
        (b"Connection", b"a,", None),
        (b"Transfer-Encoding", b"chunked,", "the body has a transfer coding that was not asked for"),
        (b"Content-Length", b"2,", "the answer has several lengths"),
    ],
)
def test_limit_of_lists(field: bytes, item: bytes, problem: str | None) -> None:
    """A list of more than 1,000 bytes is not taken apart: 32 such answers at once must not hold up everybody else."""
    stream = OK + field + b": " + item * 10_000 + b"2\r\n"
    length = b"" if problem else b"Content-Length: 2\r\n"
    answer = one(stream + length + b"\r\nok")
    assert answer.problem is problem is None or str(answer.problem).startswith(str(problem))
    assert not answer.is_reusable
    assert problem or answer.body == b"ok"


@pytest.mark.parametrize("is_whole", [True, False])
def test_limit_of_fields(is_whole: bool) -> None:
    def answer(number: int) -> Read:
        stream = OK + b"X: y\r\n" * number + b"Content-Length: 2\r\n\r\nok"
        return read([stream] if is_whole else [stream[:1_000], stream[1_000:]])

    assert answer(MAX_HEADERS - 1).body == b"ok"
    refused = answer(MAX_HEADERS)
    assert refused.problem == "the answer has more than 1,000 lines in its head"
    assert not refused.is_complete


@pytest.mark.parametrize("is_whole", [True, False])
def test_limit_of_informational_answers(is_whole: bool) -> None:
    def answer(number: int) -> Read:
        pieces = [*[b"HTTP/1.1 103 Hints\r\n\r\n"] * number, LENGTH + b"ok"]
        return read([b"".join(pieces)] if is_whole else pieces)

    assert answer(MAX_INFORMATIONAL).body == b"ok"
    refused = answer(MAX_INFORMATIONAL + 1)
    assert refused.problem == "more than 1,000 answers with status 1xx"
    assert not refused.is_complete


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        pytest.param(OK, b"X-A: b\r\n", id="many fields"),
        pytest.param(OK + b"X-A: ", b"b", id="a long field"),
        pytest.param(OK, b"X", id="a long name"),
        pytest.param(b"HTTP/1.1 200 ", b"x", id="a long reason"),
        pytest.param(CHUNKED + b"1\r\nx\r\n0\r\n", b"X-A: b\r\n", id="a trailer of many fields"),
        pytest.param(CHUNKED + b"1\r\nx\r\n0\r\nX-A: ", b"b", id="a trailer of one long field"),
        pytest.param(CHUNKED + b"1\r\nx\r\n1;", b"e", id="a long chunk extension"),
        pytest.param(CHUNKED + b"1\r\nx\r\n", b"0", id="a long chunk size"),
    ],
)
def test_limit_of_what_is_no_body(begins: bytes, goes_on: bytes) -> None:
    """Memory and time are bounded, wherever in the answer it never ends."""
    parser = AnswerParser()
    parser.expect(is_head=False)
    parser.feed(begins)
    fed = len(begins)
    while parser.problem is None:
        assert fed < MAX_HEAD_BYTES + 2_000
        parser.feed(goes_on * (1_000 // len(goes_on)))
        while parser.has_more:
            parser.go_on()
        fed += 1_000


def test_white_space_takes_no_time() -> None:
    """Each line of it once, not once more from each of its places."""
    assert seconds_for([OK + b"X-A: b" + b" " * 60_000 + b"c\r\n d\r\n\r\n"]) < 0.1


def test_empty_lines_take_no_time() -> None:
    lines = MAX_HEAD_BYTES // 2 - 1_000  # one more, and the first piece would be too long to be read on
    assert seconds_for([b"\r\n" * lines, *[b"\r\n"] * 1_000]) < 0.3


def seconds_for(pieces: Iterable[bytes]) -> float:
    """Of this thread alone."""
    began = time.thread_time()
    read(pieces)
    return time.thread_time() - began


def test_body_has_no_limit_here() -> None:
    parser = AnswerParser()
    parser.expect(is_head=False)
    parser.feed(CHUNKED)
    for _ in range(MAX_HEAD_BYTES // 10):
        parser.feed(b"1;extension\r\n")
        parser.feed(b"x\r\n")
    parser.feed(b"0\r\n\r\n")
    assert (parser.problem, parser.is_complete, len(b"".join(parser.pieces))) == (None, True, MAX_HEAD_BYTES // 10)


def test_a_problem_quotes_little_of_what_came() -> None:
    parser = AnswerParser()
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + b"?key" * 2_500 + b"\r\n\r\n")
    assert parser.problem
    assert len(parser.problem) < 300
