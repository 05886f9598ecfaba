"""What the receiver sees of a request, and the caller of an answer."""

import logging

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from requeuest_trio import InvalidRequest, Reached, Request
from requeuest_trio._http.sender import Sender
from requeuest_trio._model.ecosystem import URL
from requeuest_trio._model.request import METHODS
from requeuest_trio.testing import Receiver, Reply
from tests.http.hostile import PATIENT, raw_server, says, send, send_request, until_left

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def seen(sender: Sender, request: Request) -> bytes:
    """What a request is on the wire."""
    received = bytearray()

    async def handle(stream: trio.abc.Stream) -> None:
        while not received.endswith(b"\r\n\r\n" + request.body):
            received.extend(await stream.receive_some())
        await stream.send_all(OK)

    async with raw_server(handle) as server:
        request = Request(request.method, server.url + "/p", headers=request.headers, body=request.body)
        delivery = await send_request(sender, request)
    assert delivery.answer is not None
    return bytes(received)


async def test_on_the_wire(sender: Sender) -> None:
    """Byte for byte: order, case and repeats of the user's headers, and little else."""
    headers = [("x-B", "2"), ("X-a", "1"), ("x-b", "3"), ("X-Empty", ""), ("X-Latin", "\xe9\x80 \xff")]
    wire = await seen(sender, Request.post("http://h/", headers=headers, content=b"body"))
    host = wire.split(b"\r\n")[1]
    assert host.startswith(b"Host: localhost:")
    assert wire == b"\r\n".join([
        b"POST /p HTTP/1.1",
        host,
        b"x-B: 2",
        b"X-a: 1",
        b"x-b: 3",
        b"X-Empty: ",
        b"X-Latin: \xe9\x80 \xff",
        b"User-Agent: requeuest-trio",
        b"Accept-Encoding: identity",
        b"Content-Length: 4",
        b"",
        b"body",
    ])  # fmt: skip


async def test_defaults_give_way_to_the_users(sender: Sender) -> None:
    wire = await seen(sender, Request.get("http://h/", headers={"user-agent": "mine", "ACCEPT-ENCODING": "gzip"}))
    assert b"\r\nuser-agent: mine\r\nACCEPT-ENCODING: gzip\r\n\r\n" in wire
    assert wire.lower().count(b"user-agent") == wire.lower().count(b"accept-encoding") == 1


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_every_method(sender: Sender, receiver: Receiver, method: str) -> None:
    delivery = await send(sender, receiver.url + "/p?q=1", method=method, body=b"body")
    [arrival] = receiver.arrivals
    assert (arrival.method, arrival.target, arrival.body) == (method, "/p?q=1", b"body")
    assert delivery.answer is not None
    assert delivery.answer.body == (b"" if method == "HEAD" else b"ok")


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_empty_body_is_announced_where_one_is_expected(sender: Sender, receiver: Receiver, method: str) -> None:
    """RFC 9110 section 8.6."""
    await send(sender, receiver.url, method=method)
    expected = "0" if method in {"POST", "PUT", "PATCH"} else None
    assert receiver.arrivals[0].header("content-length") == expected


async def test_large_body(sender: Sender, receiver: Receiver) -> None:
    body = bytes(range(256)) * 20_000
    await send(sender, receiver.url, method="PUT", body=body)
    assert receiver.arrivals[0].body == body


TARGETS = st.text(max_size=30).map(lambda text: "/" + text) | st.text("/.%2fé?&=+;,:@'\"\\|[]{}^`~", max_size=20).map(
    lambda text: "/" + text
)
VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=15) | st.text(max_size=15)
HEADERS = st.lists(st.tuples(st.from_regex(r"X-[!-~]{0,8}", fullmatch=True), VALUES), max_size=4)


async def test_fuzzed_requests_arrive_byte_exact(sender: Sender, receiver: Receiver) -> None:
    """Any text is refused before it is stored, or sent exactly as it was kept."""
    sent: list[Request] = []

    @settings(max_examples=300, deadline=None, database=None)
    @given(target=TARGETS, headers=HEADERS, body=st.binary(max_size=50))
    def collect(target: str, headers: list[tuple[str, str]], body: bytes) -> None:
        try:
            sent.append(Request.post(receiver.url + target, headers=headers, content=body))
        except InvalidRequest:
            return

    while len(sent) < 50:
        collect()
    for request in sent:
        delivery = await send_request(sender, request)
        assert delivery.error is None
        arrival = receiver.arrivals[-1]
        assert arrival.target == URL(request.url).raw_path.decode("ascii")
        kept = request.url.removeprefix(receiver.url)
        assert arrival.target == (kept if kept.startswith("/") else f"/{kept}")
        assert tuple(pair for pair in arrival.headers if pair[0].startswith("X-")) == request.headers
        assert arrival.body == request.body


# --- connections ------------------------------------------------------------------------------------------------------


async def test_connection_is_kept_for_the_next_request(sender: Sender) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        while True:
            await says(OK)(stream)

    async with raw_server(handle) as server:
        for _ in range(3):
            await send(sender, server.url)
        assert server.connections == 1


async def test_connection_that_is_to_be_closed_is(sender: Sender) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with raw_server(says(answer, then=until_left)) as server:
        for _ in range(2):
            await send(sender, server.url)
            await server.wait_empty()
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_answer_without_a_body(sender: Sender, answer: bytes) -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        while True:
            await says(answer)(stream)

    async with raw_server(handle) as server:
        for _ in range(2):
            delivery = await send(sender, server.url)
            assert delivery.answer is not None
            assert (delivery.answer.body, delivery.answer.cut_off) == (b"", None)
        assert server.connections == 1


async def test_head_has_the_length_and_no_body(sender: Sender) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Encoding: gzip\r\n\r\n"
    async with raw_server(says(answer)) as server:
        delivery = await send(sender, server.url, method="HEAD")
    assert delivery.answer is not None
    assert delivery.answer.headers == (("Content-Length", "100"), ("Content-Encoding", "gzip"))
    assert (delivery.answer.body, delivery.answer.truncated) == (b"", False)


async def test_old_server_that_ends_its_body_by_closing(sender: Sender) -> None:
    async with raw_server(says(b"HTTP/1.0 200 OK\r\n\r\nall of it")) as server:
        delivery = await send(sender, server.url)
    assert delivery.answer is not None
    assert (delivery.answer.body, delivery.answer.cut_off) == (b"all of it", None)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 299, 300, 404, 418, 500, 599, 600, 999])
async def test_any_status_is_an_answer(sender: Sender, receiver: Receiver, status: int) -> None:
    receiver.script(Reply(status, body=b"b"))
    delivery = await send(sender, receiver.url)
    assert delivery.answer is not None
    assert (delivery.answer.status, delivery.answer.body, delivery.reached) == (status, b"b", Reached.RESPONSE)


async def test_interim_answers_are_passed_over(sender: Sender) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with raw_server(says(interim + OK)) as server:
        delivery = await send(sender, server.url)
    assert delivery.answer is not None
    assert delivery.answer.status == 200


async def test_headers_of_the_answer_are_kept_byte_for_byte(sender: Sender) -> None:
    head = b"HTTP/1.1 200 \xff\xfe\r\nX-b: \xe9\x80\r\nx-B:2\r\nX-a:  padded \r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(says(head)) as server:
        delivery = await send(sender, server.url)
    assert delivery.answer is not None
    assert delivery.answer.headers == (
        ("X-b", "\xe9\x80"),
        ("x-B", "2"),
        ("X-a", "padded"),
        ("X-Empty", ""),
        ("Content-Length", "0"),
    )


async def test_chunked_answer(sender: Sender) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with raw_server(says(head + b"1\r\na\r\n2;x=y\r\nbc\r\n0\r\nTrailer: x\r\n\r\n")) as server:
        delivery = await send(sender, server.url)
    assert delivery.answer is not None
    assert (delivery.answer.body, delivery.answer.cut_off) == (b"abc", None)


async def test_many_at_once(sender: Sender, receiver: Receiver) -> None:
    """No hidden limit on connections: all are being answered at the same time."""
    everybody = trio.Event()

    async def one(number: int) -> None:
        delivery = await send(sender, f"{receiver.url}/{number}")
        assert delivery.answer is not None

    receiver.decide = lambda arrival: everybody.set() if arrival.in_flight == 120 else None
    receiver.script(*[Reply(delay=PATIENT)] * 119)
    async with trio.open_nursery() as nursery:
        for number in range(120):
            nursery.start_soon(one, number)
        with trio.fail_after(PATIENT):
            await everybody.wait()
        nursery.cancel_scope.cancel()
    assert receiver.arrivals[-1].in_flight == 120


async def test_nothing_is_logged_for_each_request(
    sender: Sender, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await send(sender, receiver.url + "/?token=s3cr3t")
        await send(sender, "http://nosuch.invalid/")
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
