"""Values of subclasses. Invariant: what is kept of an argument is of the plain type, and is what the value is."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import Enum
from http import HTTPMethod
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

import requeuest_trio
from requeuest_trio import ALL, Channel, Config, InvalidRequest, Request, RetryPolicy, TrioTransport, migrate
from requeuest_trio._enqueue.arguments import JobFactory, SpawnOptions
from requeuest_trio._http.exchanges import _checked_status
from requeuest_trio._model import checks
from requeuest_trio._model.channel import channels_of
from requeuest_trio._model.checks import seconds, whole_number
from requeuest_trio._model.dsn import HiddenText
from requeuest_trio._open import _hidden
from requeuest_trio._store.new_jobs import NewJob
from requeuest_trio._store.queries import Queries, checked_schema
from requeuest_trio.embedded import embedded_path
from requeuest_trio.testing import Reply

URL = "http://x.test/a"


def member(plain: Any) -> Any:
    """A member of an enumeration of the plain value's type: formatted it is another text than it is."""
    return Enum("Kind", {"MEMBER": plain}, type=type(plain)).MEMBER  # type: ignore[attr-defined]


def liar(plain: Any) -> Any:
    """A value whose methods say something else than it is."""
    lies: dict[str, Any] = {"__str__": lambda _: "lie", "__repr__": lambda _: "lie", "__format__": lambda *_: "lie"}
    if isinstance(plain, str | bytes):
        lies |= {"__len__": lambda _: 9, "__bytes__": lambda _: b"lie", "encode": lambda *_: b"lie"}
        lies |= {"lower": lambda _: "lie", "upper": lambda _: "lie", "isascii": lambda _: True}
    else:
        lies |= {"__int__": lambda _: 77, "__index__": lambda _: 77, "__float__": lambda _: 77.0}
    return type("Liar", (type(plain),), lies)(plain)


def leaves(value: Any) -> Iterator[Any]:
    """All plain values that something is made of."""
    if isinstance(value, tuple | list | frozenset):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, range):
        yield from (value.start, value.stop)
    elif isinstance(value, Request | RetryPolicy | Channel | Config | NewJob):
        for name in type(value).__dataclass_fields__:
            if name != "id":
                yield from leaves(getattr(value, name))
    else:
        yield value


def jobs(channel: Any = "c", **options: Any) -> list[NewJob]:
    return JobFactory(Config(), ()).jobs(channel, [Request.get(URL)], None, cast("SpawnOptions", options))


CALLS: dict[str, tuple[Any, Any]] = {
    "method": ("POST", lambda value: Request(value, URL)),
    "method in lower case": ("post", lambda value: Request(value, URL)),
    "url": (URL, Request.get),
    "url that is not in normal form": ("HTTP://X.test:80/ä", Request.get),
    "name of a header": ("X-Key", lambda value: Request.get(URL, headers={value: "v"})),
    "value of a header": ("v w", lambda value: Request.get(URL, headers=[("X-Key", value)])),
    "body": (b"body", lambda value: Request("POST", URL, body=value)),
    "content": (b"content", lambda value: Request.post(URL, content=value)),
    "content as text": ("content", lambda value: Request.post(URL, content=value)),
    "name in a form": ("a b", lambda value: Request.post(URL, form={value: 1})),
    "value in a form": ("a b", lambda value: Request.post(URL, form={"a": value})),
    "number in a form": (5, lambda value: Request.post(URL, form={"a": value})),
    "fraction in a form": (5.5, lambda value: Request.post(URL, form={"a": value})),
    "value in a query": ("a b", lambda value: Request.get(URL, params={"a": value})),
    "number in a query": (5, lambda value: Request.get(URL, params={"a": value})),
    "accepted status": (204, lambda value: Request.get(URL, accept=value)),
    "accepted statuses": (204, lambda value: Request.get(URL, accept=[range(200, 202), value])),
    "timeout of a request": (5, lambda value: Request.get(URL, timeout=value)),
    "fraction of a timeout": (5.5, lambda value: Request.get(URL, timeout=value)),
    "max_attempts": (5, lambda value: RetryPolicy(max_attempts=value)),
    "initial": (5, lambda value: RetryPolicy(initial=value)),
    "multiplier": (5.5, lambda value: RetryPolicy(multiplier=value)),
    "max_backoff": (5, lambda value: RetryPolicy(max_backoff=value)),
    "jitter": (0.5, lambda value: RetryPolicy(jitter=value)),
    "give_up_on": (410, lambda value: RetryPolicy(give_up_on=value)),
    "stored policy": (5, lambda value: json.dumps(RetryPolicy(max_attempts=value, initial=value).to_json())),
    "channel of a job": ("c", jobs),
    "ordering_key": ("k", lambda value: jobs(ordering_key=value)),
    "priority": (5, lambda value: jobs(priority=value)),
    "delay": (5, lambda value: jobs(delay=value)),
    "timeout of a job": (5.5, lambda value: jobs(timeout=value)),
    "channel with settings": ("c", lambda value: Channel(value, ordered=True)),
    "channels to deliver": ("c", lambda value: channels_of([value])[0]),
    "channels to clear": ("c", lambda value: checks.channel_names([value])),
    "schema": ("mine", checked_schema),
    "schema in statements": ("mine", lambda value: Queries(value)["journal"].decode()),
    "concurrency": (5, lambda value: whole_number("concurrency", value, 1, 9)),
    "dsn": ("dbname=x", lambda value: str.__str__(_hidden(value))),
    "dsn of an embedded server": ("embedded:", _hidden),
    "listen_dsn": ("dbname=x", lambda value: Config(listen_dsn=value)),
    "sensitive": ("X-Key", lambda value: Config(sensitive=[value])),
    "redirect_bodies_to": ("http://x.test", lambda value: Config(redirect_bodies_to=[value])),
    "number in a config": (1_024, lambda value: Config(excerpt=value)),
    "seconds in a config": (5.5, lambda value: Config(attempt_timeout=value)),
}
PLAIN = {str, bytes, int, float, bool, type(None), datetime, HiddenText, type(ALL)}


@pytest.mark.parametrize("kind", [member, liar])
@pytest.mark.parametrize("argument", CALLS)
def test_it_is_kept_as_what_it_is(argument: str, kind: Any) -> None:
    plain, call = CALLS[argument]
    assert type(kind(plain)) is not type(plain)
    kept, expected = list(leaves(call(kind(plain)))), list(leaves(call(plain)))
    assert kept == expected
    assert [type(value) for value in kept] == [type(value) for value in expected]
    assert {type(value) for value in kept} <= PLAIN


def test_methods_of_the_standard_library_are_taken() -> None:
    assert type(Request(HTTPMethod.PATCH, URL).method) is str


def agreeing(value: Any) -> Any:
    """A number of a subclass that compares as everybody likes it."""
    comparisons = dict.fromkeys(("__lt__", "__le__", "__gt__", "__ge__", "__eq__"), lambda *_: True)
    return type("Agreeing", (type(value),), {**comparisons, "__ne__": lambda *_: False, "__hash__": lambda _: 1})(value)


class Forever(timedelta):
    """Says that it is short."""

    def total_seconds(self) -> float:
        return 1.0


WRONG_NUMBERS: dict[str, tuple[str, Any]] = {
    "max_attempts": ("max_attempts", lambda: RetryPolicy(max_attempts=agreeing(0))),
    "initial": ("initial", lambda: RetryPolicy(initial=agreeing(math.nan))),
    "multiplier": ("multiplier", lambda: RetryPolicy(multiplier=agreeing(math.nan))),
    "max_backoff": ("max_backoff", lambda: RetryPolicy(max_backoff=Forever(days=4_000))),
    "jitter": ("jitter", lambda: RetryPolicy(jitter=agreeing(2.0))),
    "give_up_on": ("give_up_on", lambda: RetryPolicy(give_up_on=agreeing(7))),
    "range": ("give_up_on", lambda: RetryPolicy(give_up_on=range(agreeing(7), agreeing(700)))),
    "number in a config": ("excerpt", lambda: Config(excerpt=agreeing(-1))),
    "seconds in a config": ("attempt_timeout", lambda: Config(attempt_timeout=agreeing(math.nan))),
    "priority": ("priority", lambda: jobs(priority=agreeing(101))),
    "delay": ("delay", lambda: jobs(delay=agreeing(math.nan))),
    "delay as a timedelta": ("delay", lambda: jobs(delay=Forever(days=4_000))),
    "timeout": ("timeout", lambda: jobs(timeout=agreeing(-math.inf))),
    "lease": ("lease", lambda: seconds("lease", agreeing(math.nan), 1.0, 9.0)),
    "lease as a timedelta": ("lease", lambda: seconds("lease", Forever(days=4_000), 1.0, 9.0)),
    "concurrency": ("concurrency", lambda: whole_number("concurrency", agreeing(0), 1, 9)),
    "keepalive": ("keepalive", lambda: TrioTransport(keepalive=agreeing(math.nan))),
    "status of a reply": ("status", lambda: Reply(agreeing(1_000))),
    "delay of a reply": ("delay", lambda: Reply(delay=agreeing(math.nan))),
}


@pytest.mark.parametrize("name", WRONG_NUMBERS)
def test_a_number_has_its_limits_whatever_it_says_of_itself(name: str) -> None:
    argument, call = WRONG_NUMBERS[name]
    with pytest.raises(InvalidRequest, match=f"^{argument}: "):
        call()


async def test_so_has_a_version() -> None:
    with pytest.raises(InvalidRequest, match=r"^target: "):
        await migrate("dbname=x", target=agreeing(-1))


def test_so_has_the_status_of_a_transport() -> None:
    with pytest.raises(httpx2.RemoteProtocolError, match="100 to 999"):
        _checked_status(agreeing(7))


def test_a_reply_is_kept_as_what_it_is() -> None:
    reply = Reply(liar(204), delay=liar(0.5), body_sent=liar(1))
    assert [type(value) for value in (reply.status, reply.delay, reply.body_sent)] == [int, float, int]
    assert type(RetryPolicy(give_up_on=range(member(404), member(410))).give_up_on[0].start) is int


HUGE = "x" * 1_000_000
REFUSED: list[Any] = [
    lambda: Request(HUGE, URL),
    lambda: Request.get(HUGE),
    lambda: Request.get(f"{HUGE}://x.test/"),
    lambda: Request.get(URL, headers={HUGE: "\n"}),
    lambda: Request.get(URL, headers={HUGE: "\u2192"}),
    lambda: Request.get(URL, headers={f"{HUGE} ": "v"}),
    lambda: Request.get(URL, accept=HUGE),  # type: ignore[arg-type]
    lambda: Request.get(URL, params={HUGE: object()}),  # type: ignore[dict-item]
    lambda: checked_schema(HUGE),
    lambda: Channel(HUGE),
    lambda: channels_of(HUGE),
    lambda: Config(excerpt=HUGE),  # type: ignore[arg-type]
    lambda: Config(sensitive=HUGE),
    lambda: Config(listen_dsn=HUGE),
    lambda: RetryPolicy(max_attempts=HUGE),  # type: ignore[arg-type]
    lambda: RetryPolicy(max_attempts=10**5_000),
    lambda: embedded_path(f"embedded:{HUGE}"),
    lambda: embedded_path(f"embedded:~{HUGE}"),
    lambda: jobs(HUGE),
    lambda: jobs(ordering_key=HUGE),
    lambda: jobs(priority=10**5_000),
    lambda: jobs(delay=10**5_000),
    lambda: whole_number("concurrency", 10**5_000, 1, 9),
]


@pytest.mark.parametrize("call", REFUSED)
def test_a_huge_argument_is_refused_in_few_words(call: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert len(str(caught.value)) < 1_100


def test_an_error_quotes_only_a_part() -> None:
    """All of the source: who quotes by `!r` quotes the whole. `shown` cuts, and so does the error in the end."""
    source = Path(requeuest_trio.__file__).parent
    found = []
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if path.parent.name != "cli" and isinstance(node, ast.Call) and ast.unparse(node.func) == "InvalidRequest":
                parts = [part for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
                found += [f"{path.name}:{node.lineno}" for part in parts if part.conversion == ord("r")]
    assert found == []
    assert len(str(InvalidRequest("argument", HUGE))) < 1_100
