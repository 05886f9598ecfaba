"""What reads text of strangers, and the shapes of text that may hurt it.

Receivers, rows, notifications and other roles write what these functions read, on the one event loop that renews the
lease. So each function that takes text or bytes stands in `BOUNDED` with calls of it, or in `EXEMPT` with a reason:
`tests/unit/test_time_bounds.py` finds those that do not, and `tests/http/test_time_bounds.py` measures the calls.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import trio
from rich.console import Console

from requeuest_trio import Attempt, InvalidRequest, Job, JobState, Reached, Request, RetryPolicy
from requeuest_trio._config import check_dsn
from requeuest_trio._engine.listener import Listener, Topic
from requeuest_trio._engine.notification import finished_in, waits_in
from requeuest_trio._http.error_texts import causes, described
from requeuest_trio._http.progress import Progress
from requeuest_trio._http.redirects import Hop, goes_along, is_redirect, next_hop
from requeuest_trio._http.trace import reached_by
from requeuest_trio._http.wire.answer import AnswerParser
from requeuest_trio._http.wire.chunks import ChunkedBody
from requeuest_trio._http.wire.codings import advertised
from requeuest_trio._http.wire.decoding import decoder_for
from requeuest_trio._http.wire.heads import head_of_odd
from requeuest_trio._http.wire.message import target_of
from requeuest_trio._model import checks
from requeuest_trio._model.bodies import checked_body, content_body, form_encoded, json_body
from requeuest_trio._model.channel import channels_of
from requeuest_trio._model.charsets import encoding_of
from requeuest_trio._model.dsn import masked_dsn, option_for, problem_of
from requeuest_trio._model.ecosystem import InvalidURL
from requeuest_trio._model.errors import first_line, shown
from requeuest_trio._model.escaping import cut, escaped
from requeuest_trio._model.exact import exact_bytes, exact_text
from requeuest_trio._model.headers import Headers, checked_headers, find, is_secret, masked, masked_for_logs
from requeuest_trio._model.job import make_response
from requeuest_trio._model.masking import has_token, is_secret_name, masked_url, masked_url_for_logs
from requeuest_trio._model.origin import origin_of
from requeuest_trio._model.outcome import Answer, Delivery, Outcome, damaged, judge
from requeuest_trio._model.retry import retry_after_seconds
from requeuest_trio._model.statuses import statuses
from requeuest_trio._model.tokens import is_token
from requeuest_trio._model.urls import MAX_URL_LENGTH, checked_url, normal_form, url_text
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._store.claimed import Claimed, StoredRequest
from requeuest_trio._store.outcomes import Report, outcome_rows
from requeuest_trio._store.reading import attempt_from_row, job_from_row
from requeuest_trio.cli.display import body_text, one_line, say
from requeuest_trio.cli.display import cut as cut_for_display
from requeuest_trio.cli.documents import attempt_document, job_document, show_document
from requeuest_trio.cli.dsn import option_of
from requeuest_trio.cli.table import Column, print_table

SHAPES: Mapping[str, str] = {
    "parameters": "?key", "equal signs": "=", "percent signs": "%", "escapes": "%25", "named": "&token=a",
    "deep escapes": "%252525", "entries": "[a%5D",
    "semicolons": ";", "slashes": "/", "users": "//u:p@", "colons": ":", "commas": "gzip, ", "parents": "../",
    "letters": "a", "digits": "9", "mixed": "a1", "spaces": " ", "lists": "[", "objects": '{"a":', "numbers": "[1,",
    "surrogates": "\ud83d", "controls": "\x1b\n", "quotes": "'\"\\", "lines": "a: b\r\n", "chunks": "1\r\na\r\n",
}  # fmt: skip

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = UUID(int=7)
SIMPLE = Request.get("http://h/")

Call = Callable[[str], object]


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def latin(text: str) -> str:
    """As it comes in a header field."""
    return raw(text).decode("latin-1")


def one_field(name: str) -> Callable[[str], Headers]:
    return lambda text: ((name, latin(text)),)


def many_fields(text: str) -> Headers:
    text = latin(text)
    return tuple((text[place : place + 8], text[place + 8 : place + 16]) for place in range(0, len(text), 16))


def headers_of(use: Callable[[Headers], object], *names: str) -> list[Call]:
    """Calls with one long field of each name, and with many fields."""
    shapes = [one_field(name) for name in (*names, "X-A")] + [many_fields]
    return [lambda text, shape=shape: use(shape(text)) for shape in shapes]  # type: ignore[misc]


def claimed(**parts: Any) -> Claimed:
    usual = {"method": "GET", "url": "http://h/", "headers": "[]", "body": b"", "accept": "{[200,300)}"}
    retry = parts.pop("retry", None)
    request = StoredRequest(timeout=None, follow_redirects=False, **{**usual, **parts})
    return Claimed(claim=ID, id=ID, channel="c", ordering_key=None, attempt=1, request=request, retry=retry)


def job(text: str) -> Job:
    headers = json.dumps([["X-A", text], *([text[:8], text[:8]] for _ in range(0, len(text), 64))])
    return job_from_row((
        ID, text, "succeeded", 0, text, 1, NOW, NOW, NOW, 200, text, text, text, headers, raw(text), text, None, False,
        headers, raw(text), False,
    ))  # fmt: skip


def attempt(text: str) -> Attempt:
    return attempt_from_row((1, NOW, 0.1, Reached.SENT, 200, text, raw(text), NOW))


def rows(text: str) -> object:
    answer = Answer(200, (("X-A", text), *many_fields(text)), raw(text))
    outcome = Outcome(JobState.SUCCEEDED, Reached.RESPONSE, answer=answer, error=text)
    return outcome_rows([Report(claimed(), outcome, 0.0, 0.1)], 1.0, 1_000)


def judged(text: str) -> object:
    delivery = Delivery(Reached.RESPONSE, Answer(503, (("Retry-After", text), *many_fields(text)), b"", cut_off=text))
    return judge(delivery, SIMPLE, RetryPolicy(), attempt=1, now=NOW, random=lambda: 0.5)


def answered(start: bytes) -> Call:
    def feed(text: str) -> None:
        parser = AnswerParser()
        parser.expect(is_head=False)
        data = start + raw(text)
        # As they come from a socket.
        for place in range(0, len(data), 65_536):
            parser.feed(data[place : place + 65_536])
            while parser.has_more:
                parser.go_on()
            parser.pieces.clear()
            if parser.problem:
                break
        parser.feed_eof()

    return feed


HEAD = b"HTTP/1.1 200 OK\r\n"


def in_pieces(text: str) -> object:
    progress = Progress(())
    data = raw(text)
    for place in range(0, len(data), 64):
        progress.take(data[place : place + 64], 2_000_000)
    return progress.complete()


def decoded(text: str) -> None:
    decoder = decoder_for((("Content-Encoding", "gzip"),))
    assert decoder is not None
    with suppress(ValueError):
        decoder.decode(raw(text), 1_000_000)
        decoder.finish()


def ignore(_: object) -> None:
    """Whatever was said."""


def heard(topic: str) -> Call:
    topics: dict[str, Topic[Any]] = {"due": Topic(waits_in, ignore), "done": Topic(finished_in, ignore)}
    # It is only given what was heard: there is nothing that it could listen on.
    nowhere: Any = None
    listener = Listener(nowhere, nowhere, topics, [], Emitter())

    def hear(text: str) -> None:
        # More does not fit into a notification.
        with suppress(RecursionError, OverflowError):
            trio.run(pass_on, text[:8_000])

    async def pass_on(text: str) -> None:
        listener._pass_on(topic, text)

    return hear


def console() -> Console:
    return Console(file=io.StringIO(), markup=False, highlight=False, emoji=False, width=80)


def refusing(use: Call) -> Call:
    def call(text: str) -> None:
        with suppress(
            ValueError, TypeError, RecursionError, InvalidURL, psycopg.Error
        ):  # InvalidRequest is a ValueError
            use(text)

    return call


def request_of(**parts: Callable[[str], Any]) -> Call:
    usual: dict[str, Any] = {"method": "GET", "url": "http://h/"}
    return lambda text: Request(**{**usual, **{name: of(text) for name, of in parts.items()}})


def restored(text: str) -> Request:
    return Request.restored(text, f"http://h/{text}", (("X-A", text), *many_fields(text)), b"", (), None, False)


EVERY_REQUEST: list[Call] = [
    request_of(method=str),
    request_of(url=str),
    request_of(url=lambda text: "http://h/" + text),
    request_of(url=lambda text: "http://" + text),
    request_of(url=lambda text: "http://h/?" + text),
    request_of(headers=one_field("X-A")),
    request_of(headers=many_fields),
    request_of(body=raw),
    request_of(accept=list),
]

BOUNDED: Mapping[str, list[Call]] = {
    "_config.check_dsn": [
        lambda text: check_dsn("dsn", text, "is none"),
        lambda text: check_dsn("dsn", "postgresql://" + text, "is none"),
        lambda text: check_dsn("dsn", "postgresql://h/?" + text, "is none"),
    ],
    "_engine.listener.Listener": [heard("due"), heard("done"), heard("other")],
    "_engine.listener.Topic.pass_on": [Topic(waits_in, ignore).pass_on, Topic(finished_in, ignore).pass_on],
    "_http.wire.answer.AnswerParser.feed": [
        answered(b""), answered(b"HTTP/1.1 200 "), answered(HEAD), answered(HEAD + b"X-A: "),
        answered(HEAD + b"Transfer-Encoding: "), answered(HEAD + b"Content-Length: "),
        answered(HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
        answered(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;"), answered(HEAD + b"\r\n"),
    ],
    "_http.wire.answer.AnswerParser.has_long_head": [lambda text: AnswerParser().has_long_head(raw(text))],
    "_http.wire.decoding.decoder_for": headers_of(decoder_for, "Content-Encoding"),
    "_http.wire.decoding.Decoder.decode": [decoded],
    "_http.error_texts.described": [
        lambda text: described(ValueError(text)),
        lambda text: described(ValueError("x"), (("Authorization", text),)),
        lambda text: described(ValueError(text), (("Authorization", text), *many_fields(text))),
        lambda text: described(ExceptionGroup(text[:100], [ValueError(text), OSError(7, text)])),
    ],
    "_http.error_texts.causes": [lambda text: list(causes(ValueError(text)))],
    "_http.wire.chunks.ChunkedBody.feed": [
        lambda text: ChunkedBody().feed(raw(text), 0, [], 2_000_000),
        lambda text: ChunkedBody().feed(b"1;" + raw(text), 0, [], 2_000_000),
    ],
    "_http.wire.heads.head_of_odd": [
        lambda text: head_of_odd(raw(text)),
        lambda text: head_of_odd(HEAD + b"X-A: " + raw(text) + b"\r\n\r\n"),
    ],
    "_http.wire.codings.advertised": [advertised.__wrapped__],
    "_http.redirects.goes_along": [lambda text: goes_along("Accept", text, ()), lambda text: goes_along(text, "a", ())],
    "_http.wire.message.target_of": [lambda text: target_of.__wrapped__("http://h/" + text[:MAX_URL_LENGTH])],
    "_http.progress.Progress.answered": headers_of(lambda headers: Progress(()).answered(200, headers)),
    "_http.trace.reached_by": [reached_by, lambda text: reached_by("." * len(text))],
    "_http.progress.Progress.trace": [
        lambda text: Progress(()).trace(text, {}).close(),
    ],
    "_http.progress.Progress.take": [in_pieces],
    "_http.progress.Progress.failed": [lambda text: Progress(many_fields(text)).failed(ValueError(text))],
    "_http.redirects.is_redirect": headers_of(lambda headers: is_redirect(302, headers), "Location"),
    "_http.redirects.next_hop": headers_of(
        lambda headers: next_hop(Hop("GET", "https://h/a", many_fields("a1"), b""), 302, headers), "Location"
    ),
    "_model.bodies.json_body": [json_body],
    "_model.bodies.content_body": [content_body],
    "_model.bodies.checked_body": [lambda text: checked_body("body", raw(text))],
    "_model.bodies.form_encoded": [
        lambda text: form_encoded("form", {"a": text}), lambda text: form_encoded("form", many_fields(text)),
    ],
    "_model.channel.channels_of": [channels_of, lambda text: channels_of([text]), lambda text: channels_of(list(text))],
    "_model.checks.short_text": [lambda text: checks.short_text("name", text, 2_000_000)],
    "_model.checks.new_name": [lambda text: checks.new_name("name", text, 2_000_000)],
    "_model.checks.channel_name": [checks.channel_name],
    "_model.checks.channel_names": [checks.channel_names, lambda text: checks.channel_names(list(text))],
    "_model.checks.instant": [lambda text: checks.instant("at", text)],
    "_model.checks.number": [lambda text: checks.number("jitter", text, 0, 1)],
    "_model.checks.priority": [checks.priority],
    "_model.checks.whole_number": [lambda text: checks.whole_number("status", text, 0, 1)],
    "_model.checks.job_id": [checks.job_id],
    "_model.dsn.masked_dsn": [lambda text: masked_dsn("postgresql://u:p@h/?" + text), masked_dsn],
    "_model.dsn.option_for": [lambda text: option_for("postgresql://u:p@h/?" + text), option_for],
    "_model.dsn.problem_of": [
        problem_of,
        lambda text: problem_of("postgresql://u:p@h/?" + text),
        lambda text: problem_of("postgresql://u:p@h/?" + "&".join(f"user={part}" for part in text.split("a"))),
    ],
    "_model.errors.InvalidRequest.__init__": [lambda text: str(InvalidRequest(text, text))],
    "_model.errors.shown": [shown, lambda text: shown(raw(text))],
    "_model.escaping.escaped": [escaped],
    "_model.exact.exact_bytes": [lambda text: exact_bytes(text.encode("utf-8", "replace"))],
    "_model.exact.exact_text": [exact_text],
    "_model.escaping.cut": [lambda text: cut(text, 100)],
    "_model.errors.first_line": [lambda text: first_line(ValueError(text))],
    "_observe.event.Event.__str__": [
        lambda text: str(events.Opened(channels=(text, text), worker=ID)),
        lambda text: str(events.JobDead(job=ID, channel=text, attempts=1, status=None, error=text)),
    ],
    "_model.headers.checked_headers": headers_of(checked_headers),
    "_model.headers.find": headers_of(lambda headers: find(headers, "X-Z")),
    "_model.headers.is_secret": [lambda text: is_secret(text, text), lambda text: is_secret("X-A", text)],
    "_model.headers.masked": headers_of(masked, "Referer"),
    "_model.headers.masked_for_logs": headers_of(masked_for_logs),
    "_model.charsets.encoding_of": [
        lambda text: encoding_of(text, b""),
        lambda text: encoding_of("text/plain" + text, b""),
        lambda text: encoding_of("text/plain;charset=" + text, b""),
    ],
    "_model.job.make_response": [
        lambda text: make_response(200, many_fields(text), raw(text), restored(text), truncated=False)
    ],
    "_model.masking.is_secret_name": [is_secret_name, lambda text: is_secret_name(text, {"tenant"})],
    "_model.masking.has_token": [has_token],
    "_model.masking.masked_url": [masked_url],
    "_model.masking.masked_url_for_logs": [masked_url_for_logs],
    "_model.origin.origin_of": [lambda text: origin_of.__wrapped__("http://h/" + text[:MAX_URL_LENGTH])],
    "_model.outcome.judge": [judged],
    "_model.outcome.damaged": [damaged],
    "_model.request.Request.__init__": EVERY_REQUEST,
    "_model.request.Request.__repr__": [lambda text: repr(restored(text))],
    "_model.request.Request.restored": [restored],
    "_model.retry.RetryPolicy.from_json": [
        lambda text: RetryPolicy.from_json({text: text}), lambda text: RetryPolicy.from_json({"max_attempts": text}),
    ],
    "_model.retry.retry_after_seconds": [lambda text: retry_after_seconds(text, NOW)],
    "_model.statuses.statuses": [lambda text: statuses("accept", list(text)), lambda text: statuses("accept", text)],  # type: ignore[arg-type]
    "_model.tokens.is_token": [lambda text: is_token(raw(text))],
    "_model.urls.normal_form": [lambda text: normal_form.__wrapped__("http://h/" + text[:MAX_URL_LENGTH])],
    "_model.urls.checked_url": [checked_url, lambda text: checked_url("http://" + text)],
    "_model.urls.url_text": [url_text],
    "_store.claimed.Claimed.read": [
        lambda text: claimed(method=text).read(),
        lambda text: claimed(url=text).read(),
        lambda text: claimed(headers=text).read(),
        lambda text: claimed(headers=json.dumps(many_fields(text))).read(),
        lambda text: claimed(accept=text).read(),
        lambda text: claimed(accept="{" + "[200,300)," * (len(text) // 10) + "}").read(),
        lambda text: claimed(retry=text).read(),
    ],
    "_store.claimed.Claimed.__repr__": [lambda text: repr(claimed(url=text, headers=text, body=raw(text)))],
    "_store.outcomes.outcome_rows": [rows],
    "_store.reading.job_from_row": [job],
    "_store.reading.attempt_from_row": [attempt],
    "cli.display.say": [lambda text: say(console(), text)],
    "cli.display.one_line": [one_line],
    "cli.display.cut": [lambda text: cut_for_display(text, 80)],
    "cli.display.body_text": [lambda text: body_text(raw(text))],
    "cli.documents.job_document": [lambda text: job_document(job(text))],
    "cli.documents.show_document": [lambda text: show_document(job(text), [attempt(text)])],
    "cli.documents.attempt_document": [lambda text: attempt_document(attempt(text))],
    "cli.dsn.option_of": [lambda text: option_of("postgresql://h/" + text)],
    "cli.table.print_table": [lambda text: print_table(console(), [Column("a", least=9), Column("b")], [[text, 1]])],
}  # fmt: skip

_IO = "reads and writes sockets; what comes is read by what stands in the table"
_OURS = "is given what this library or the application has made and checked"
_SAME = "is `Request.__init__` with a method"
_KEEPS = "only keeps what it is given"
EXEMPT: Mapping[str, str] = {
    "_engine.listener.Topic.__init__": _KEEPS,
    "_engine.listener.Listener.__init__": _KEEPS,
    "_http.wire.bodies.chunk": _OURS,
    "_http.wire.bodies.Pieces.__init__": _KEEPS,
    "_http.wire.bodies.Sized.__init__": _KEEPS,
    "_http.net.connector.Connector.connect": _IO,
    "_http.exchanges.exchange_through": _OURS,
    "_http.wire.heads.Head.__init__": "is called by `AnswerParser.feed`",
    "_http.wire.message.head_of": _OURS,
    "_http.progress.Progress.__init__": _KEEPS,
    "_http.progress.Progress.complete": _OURS,
    "_http.foreign_bodies.read_body": _IO,
    "_http.turns.Turns.__init__": _KEEPS,
    "_http.net.lookup_threads.LookupThreads.acquire": "only keeps what it is given, as keys",
    "_http.net.lookup_threads.LookupThreads.release": "only keeps what it is given, as keys",
    "_http.net.resolver.Resolver.addresses": _IO,
    "_http.sender.open_sender": _OURS,
    "_http.sender.Sender.send": _IO,
    "_http.net.shortages.is_shortage": "looks at the types and numbers of errors",
    "_http.net.shortages.lacks_ports": "looks at the types and numbers of errors",
    "_http.net.streams.Stream.start_sending": _IO,
    "_http.net.streams.PlainStream.start_sending": _IO,
    "_http.net.tls.TlsStream.__init__": _KEEPS,
    "_http.net.tls.TlsStream.start_sending": _IO,
    "_http.net.tls.open_tls": _IO,
    "_http.net.timeouts.Timeouts.of": _OURS,
    "_model.checks.seconds": "takes numbers, and refuses what is none by its type",
    "_model.errors.DatabaseUnavailable.__init__": _KEEPS,
    "_model.errors.kind_of": "looks at the type alone",
    "_model.groups.raise_bare": _OURS,
    "_model.headers.header_items": "is called by `checked_headers`",
    "_model.outcome.failed_within": _OURS,
    "_model.request.Request.get": _SAME,
    "_model.request.Request.head": _SAME,
    "_model.request.Request.options": _SAME,
    "_model.request.Request.delete": _SAME,
    "_model.request.Request.post": _SAME,
    "_model.request.Request.put": _SAME,
    "_model.request.Request.patch": _SAME,
    "_store.claimed.Claimed.add_body": _KEEPS,
    "_store.parsing.headers_in": "is called by `Claimed.read` and `job_from_row`",
    "_store.parsing.statuses_in": "is called by `Claimed.read` and `job_from_row`",
    "cli.display.logging_to": _OURS,
    "cli.dsn.open_existing": _IO,
    "cli.dsn.every_job": _IO,
}
