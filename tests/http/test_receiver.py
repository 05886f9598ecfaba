"""The public receiver of `requeuest_trio.testing`: it does what it is told, and no sender can break it."""

import socket
from typing import Any

import httpx2
import pytest
import trio

from requeuest_trio import InvalidRequest
from requeuest_trio.testing import Arrival, Receiver, Reply, Reset, Stall, open_receiver


async def exchange(receiver: Receiver, data: bytes) -> bytes:
    """Send bytes, say that no more will come, and give back what is answered until the connection ends."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(receiver.url.rpartition(":")[2]))
    answer = b""
    with trio.fail_after(5):
        async with stream:
            await stream.send_all(data)
            await stream.send_eof()
            async for part in stream:
                answer += part
    return answer


def get(target: str, extra: str = "", method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: h\r\n{extra}\r\n".encode("latin-1")


async def test_arrival_is_the_request(receiver: Receiver) -> None:
    before = trio.current_time()
    await exchange(receiver, get("/p?q=%C3", "x-B: 1\r\nX-b: \xe9\r\nContent-Length: 4\r\n", "POST") + b"body")
    [arrival] = receiver.arrivals
    assert (arrival.method, arrival.target, arrival.body, arrival.in_flight) == ("POST", "/p?q=%C3", b"body", 1)
    assert arrival.headers == (("Host", "h"), ("x-B", "1"), ("X-b", "\xe9"), ("Content-Length", "4"))
    assert (arrival.header("X-B"), arrival.header("x-c")) == ("1", None)
    assert before <= arrival.at <= trio.current_time()


async def test_chunked_request(receiver: Receiver) -> None:
    body = b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    await exchange(receiver, get("/", "Transfer-Encoding: chunked\r\n", "POST") + body)
    assert receiver.arrivals[0].body == b"abc"


async def test_default_answer(receiver: Receiver) -> None:
    assert await exchange(receiver, get("/")) == b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("method", "reply", "answer"),
    [
        (
            "GET",
            Reply(503, headers=(("x-A", "\xe9"), ("X-a", "2"))),
            b"503 \r\nx-A: \xe9\r\nX-a: 2\r\nContent-Length: 2\r\n\r\nok",
        ),
        ("HEAD", Reply(), b"200 \r\nContent-Length: 2\r\n\r\n"),
        ("GET", Reply(204), b"204 \r\n\r\n"),
        ("GET", Reply(304), b"304 \r\nContent-Length: 2\r\n\r\n"),
        ("GET", Reply(103), b"103 \r\n\r\n"),
        ("GET", Reply(99), b"099 \r\n\r\n"),
        ("GET", Reply(999), b"999 \r\nContent-Length: 2\r\n\r\nok"),
        ("GET", Reply(headers=(("content-length", "9"),)), b"200 \r\ncontent-length: 9\r\n\r\nok"),
        ("GET", Reply(headers=(("Content-Length", "1"),)), b"200 \r\nContent-Length: 1\r\n\r\nok"),
        ("GET", Reply(body=b"thanks", body_sent=2), b"200 \r\nContent-Length: 6\r\n\r\nth"),
        ("GET", Reply(body_sent=0), b"200 \r\nContent-Length: 2\r\n\r\n"),
        (
            "GET",
            Reply(headers=(("Transfer-Encoding", "chunked"),), body=b"1\r\na\r\n0\r\n\r\n"),
            b"200 \r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ),
        (
            "GET",
            Reply(headers=(("Bad Name", "a\rb"),), body=b""),
            b"200 \r\nBad Name: a\rb\r\nContent-Length: 0\r\n\r\n",
        ),
    ],
)  # fmt: skip
async def test_reply_is_sent_as_it_was_given(receiver: Receiver, method: str, reply: Reply, answer: bytes) -> None:
    receiver.script(reply)
    assert await exchange(receiver, get("/", method=method)) == b"HTTP/1.1 " + answer


async def test_requests_on_one_connection(receiver: Receiver) -> None:
    """Also if they come at once."""
    answer = await exchange(receiver, get("/a") + get("/b", method="HEAD") + get("/c"))
    assert [arrival.target for arrival in receiver.arrivals] == ["/a", "/b", "/c"]
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.count(b"ok") == 2


@pytest.mark.parametrize(
    ("extra", "reply"),
    [
        ("Connection: close\r\n", Reply()),
        ("", Reply(headers=(("Connection", "close"),))),
        ("", Reply(body_sent=1)),
        ("", Reply(headers=(("Content-Length", "7"),))),
    ],
)
async def test_connection_is_closed_after_an_answer_that_says_so_or_lies(
    receiver: Receiver, extra: str, reply: Reply
) -> None:
    receiver.script(reply)
    assert (await exchange(receiver, get("/a", extra) + get("/b"))).count(b"HTTP/1.1") == 1
    assert len(receiver.arrivals) == 1


async def test_expectation_is_met(receiver: Receiver) -> None:
    """RFC 9110 section 10.1.1; curl waits a second for it."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(receiver.url.rpartition(":")[2]))
    with trio.fail_after(5):
        async with stream:
            await stream.send_all(get("/", "Expect: 100-continue\r\nContent-Length: 4\r\n", "PUT"))
            assert await stream.receive_some() == b"HTTP/1.1 100 \r\n\r\n"
            await stream.send_all(b"body")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    assert receiver.arrivals[0].body == b"body"


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\n", get("/", "Content-Length: 9\r\n") + b"half", b"\x16\x03\x01"],
)
async def test_broken_request_does_not_arrive(receiver: Receiver, data: bytes) -> None:
    assert await exchange(receiver, data) == b""
    assert receiver.arrivals == []
    await exchange(receiver, get("/"))
    assert len(receiver.arrivals) == 1


async def test_reset(receiver: Receiver) -> None:
    receiver.script(Reset())
    with pytest.raises(trio.BrokenResourceError):
        await exchange(receiver, get("/"))


async def test_stall_lasts_until_the_sender_leaves(receiver: Receiver) -> None:
    receiver.script(Stall())
    assert await exchange(receiver, get("/")) == b""
    stream = await trio.open_tcp_stream("127.0.0.1", int(receiver.url.rpartition(":")[2]))
    receiver.script(Stall())
    async with stream:
        await stream.send_all(get("/") + b"more")
        await receiver.wait_for(2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.move_on_after(0) as scope:
            await stream.receive_some()
    assert scope.cancelled_caught


async def test_scripts_go_by_target_first_and_then_in_order(receiver: Receiver) -> None:
    receiver.script(Reply(501), Reply(502))
    receiver.script(Reply(503), target="/b")
    receiver.decide = lambda arrival: Reply(504) if arrival.target == "/d" else None
    statuses = [int((await exchange(receiver, get(target)))[9:12]) for target in ["/b", "/a", "/b", "/b", "/d", "/a"]]
    assert statuses == [503, 501, 502, 200, 504, 200]


async def test_wait_for_several_tasks_at_once(receiver: Receiver) -> None:
    counts = []

    async def waits(number: int) -> None:
        counts.append((number, len(await receiver.wait_for(number))))

    async with trio.open_nursery() as nursery:
        for number in (0, 1, 2):
            nursery.start_soon(waits, number)
        await trio.testing.wait_all_tasks_blocked()
        await exchange(receiver, get("/") + get("/"))
    assert [number for number, _ in counts] == [0, 1, 2]
    assert all(count >= number for number, count in counts)


async def test_delay_is_waited_for_and_counted_as_in_flight(receiver: Receiver) -> None:
    receiver.script(Reply(delay=60))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange, receiver, get("/slow"))
        await receiver.wait_for(1)
        await exchange(receiver, get("/fast"))
        nursery.cancel_scope.cancel()
    assert [arrival.in_flight for arrival in receiver.arrivals] == [1, 2]


async def test_what_decide_raises_comes_out_bare() -> None:
    def decide(_: Arrival) -> None:
        raise KeyError("no such case")

    async def use() -> None:
        async with open_receiver() as receiver:
            receiver.decide = decide
            await exchange(receiver, get("/"))
            await trio.sleep_forever()

    with pytest.raises(KeyError, match="no such case"):
        await use()


async def test_exception_of_the_block_comes_out_bare() -> None:
    with pytest.raises(LookupError):
        async with open_receiver():
            raise LookupError


async def test_leaving_closes_connections_and_port() -> None:
    async with open_receiver() as receiver, httpx2.AsyncClient(trust_env=False) as client:
        await client.get(receiver.url)
        address = ("127.0.0.1", int(receiver.url.rpartition(":")[2]))
    with socket.socket() as probe:
        assert probe.connect_ex(address) != 0


async def test_deciding_nothing_is_the_usual_reply(receiver: Receiver) -> None:
    receiver.decide = None
    assert (await exchange(receiver, get("/"))).endswith(b"ok")
    assert repr(receiver) == f"<Receiver {receiver.url} arrivals=1>"


@pytest.mark.parametrize("wrong", [503, "ok", Reply])
async def test_what_is_no_action_is_refused(wrong: Any) -> None:
    async def use() -> None:
        async with open_receiver() as receiver:
            with pytest.raises(TypeError, match="an action must be a Reply, Reset or Stall, not "):
                receiver.script(Reply(), wrong)
            receiver.decide = lambda _: wrong
            await exchange(receiver, get("/"))
            await trio.sleep_forever()

    with pytest.raises(TypeError, match="what decide returns must be a Reply, Reset or Stall, not "):
        await use()


@pytest.mark.parametrize("backlog", [0, 65_536, None, 1.5, True])
async def test_backlog_has_its_limits(backlog: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^backlog: must be an int from 1 to 65,535"):
        async with open_receiver(backlog=backlog):
            pass
