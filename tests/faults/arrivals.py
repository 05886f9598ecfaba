"""
The receiver: a process of its own that writes down every request before it answers.

It answers as told, by how often the job has come before. What it was told can be changed while it runs.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import httptools
import trio

from tests.faults.journal import Journal
from tests.faults.program import hear, say

_LONGEST_ANSWER = 100
"""Bytes; less than an attempt keeps of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to do with a request."""

    status: int = 200
    delay: float = 0.0
    manner: Literal["whole", "half", "held", "never"] = "whole"
    """Half: the head and a part of the body, and then nothing more. Held: the answer comes when the receiver is told
    something else."""
    failing: float = 0.0
    """The part of these requests, chosen at random, that gets 503 instead."""


def told(answers: Sequence[Answer]) -> dict[str, Any]:
    """How a receiver is told what to do with the first, second ... arrival of each job; the last goes for the rest."""
    return {"answers": [asdict(answer) for answer in answers or [Answer()]]}


class Receiver:
    """What has come, and what to do with what comes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._journal = Journal(settings["log"])
        self._random = random.Random(settings["seed"])
        self._arrivals: Counter[str] = Counter()
        self._number = 0
        self._told = trio.Event()
        self.tell(settings)

    def tell(self, settings: dict[str, Any]) -> None:
        self._told.set()
        self._told = trio.Event()
        self._answers = [Answer(**answer) for answer in settings["answers"]]
        say("told")

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, to its end."""
        async with stream:
            try:
                request = _Request()
                while data := await stream.receive_some(65_536):
                    request.parser.feed_data(data)
                    if request.is_complete:
                        await self._answer(stream, request)
                        request = _Request()
            except (trio.BrokenResourceError, httptools.HttpParserError):
                return

    async def _answer(self, stream: trio.SocketStream, request: "_Request") -> None:
        self._number += 1
        number = self._number
        job = request.headers.get("idempotency-key", "")
        self._journal.write(
            "arrival",
            number=number,
            job=job,
            key=request.headers.get("x-key"),
            seq=int(request.headers.get("x-seq", 0)),
            body=body_hash(request.body),
        )
        answer = self._answers[min(self._arrivals[job], len(self._answers) - 1)]
        self._arrivals[job] += 1
        status = 503 if answer.failing and self._random.random() < answer.failing else answer.status
        if answer.manner == "half":
            await stream.send_all(b"HTTP/1.1 %d \r\nContent-Length: 1000\r\n\r\nthe first" % status)
        delay = answer.delay if answer.manner == "whole" else float("inf")
        until = self._told if answer.manner == "held" else trio.Event()
        if delay and await _is_gone_within(stream, delay, until):
            self._journal.write("gone", number=number)
            return
        # No two answers are alike, so that what is stored can be told from what was sent.
        body = b"answer %d " % number + self._random.randbytes(number % _LONGEST_ANSWER)
        # Before it is sent: who acts on the answer then finds it in the log.
        self._journal.write("answered", number=number, status=status, answer=body_hash(body))
        head = b"HTTP/1.1 %d \r\nX-Answer: %d\r\nContent-Length: %d\r\n\r\n" % (status, number, len(body))
        await stream.send_all(head + body)


class _Request:
    """One request, as httptools reports it."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


def body_hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


async def _is_gone_within(stream: trio.SocketStream, seconds: float, until: trio.Event) -> bool:
    """Wait for that long, or until an event; and notice if the sender goes away meanwhile."""
    is_gone = False

    async def wait_for_event() -> None:
        await until.wait()
        waiting.cancel_scope.cancel()

    async with trio.open_nursery() as waiting:
        waiting.cancel_scope.deadline = trio.current_time() + seconds
        waiting.start_soon(wait_for_event)
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(1)
        is_gone = True
        waiting.cancel_scope.cancel()
    return is_gone


async def main(settings: dict[str, Any]) -> None:
    receiver = Receiver(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear, receiver.tell)
        [listener] = await nursery.start(
            partial(trio.serve_tcp, receiver.serve, settings.get("port", 0), host="127.0.0.1", backlog=1024)
        )
        say("ready", port=listener.socket.getsockname()[1])
