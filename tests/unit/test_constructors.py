"""Whatever is given to a public constructor is taken, or refused by `InvalidRequest` with the name of the argument."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from requeuest_trio import Channel, Config, InvalidRequest, Request, RetryPolicy, TrioTransport
from requeuest_trio.testing import Reply

HUGE = 10**5_000
"""An int of more digits than Python agrees to write."""
NO_NUMBERS: list[Any] = ["1", b"1", True, [], {}, object(), 1j, math.nan, math.inf, -1, HUGE]
NO_INTS = [*NO_NUMBERS, 1.5, timedelta(1)]
NO_TEXTS: list[Any] = [None, 1, b"a", [], object(), True]
NO_FLAGS: list[Any] = [0, 1, "yes", b"", [], object()]

WRONG: dict[tuple[Callable[..., object], str], list[Any]] = {
    (TrioTransport, "ssl_context"): [True, "ssl", object(), 1],
    (TrioTransport, "max_connections"): [*NO_INTS, 0, None],
    (TrioTransport, "max_connections_per_origin"): [*NO_INTS, 0, None],
    (TrioTransport, "keepalive"): [*NO_NUMBERS, None, timedelta(1)],
    (TrioTransport, "deadline"): [*NO_NUMBERS, timedelta(1)],
    (TrioTransport, "max_body"): NO_INTS,
    (RetryPolicy, "max_attempts"): [*NO_INTS, 0, None],
    (RetryPolicy, "initial"): [*NO_NUMBERS, 0, None],
    (RetryPolicy, "multiplier"): [*NO_NUMBERS, 0.5, None],
    (RetryPolicy, "max_backoff"): [*NO_NUMBERS, 0, None],
    (RetryPolicy, "jitter"): [*NO_NUMBERS, 1.5, None],
    (RetryPolicy, "give_up_on"): ["200", 1, [None], object(), None, HUGE],
    (RetryPolicy, "respect_retry_after"): [*NO_FLAGS, None],
    (Config, "attempt_timeout"): [*NO_NUMBERS, 0, None, timedelta(1)],
    (Config, "max_running"): [*NO_INTS, 0, None],
    (Config, "sensitive"): [None, 1, "name", [1], object()],
    (Config, "redirect_bodies_to"): [None, 1, "https://h", [1], ["h"], object()],
    (Config, "listen_dsn"): [1, b"postgresql://", object(), True, []],
    (Config, "notifications"): [*NO_FLAGS, None],
    (Channel, "name"): [*NO_TEXTS, "", "a" * 201, "\0"],
    (Channel, "ordered"): NO_FLAGS,
    (Request, "method"): [*NO_TEXTS, "", "TRACE"],
    (Request, "url"): [*NO_TEXTS, "", "h", "ftp://h"],
    (Request, "headers"): [None, 1, "A: b", [1], {"A": 1}, object()],
    (Request, "body"): [None, 1, "a", [], object()],
    (Request, "accept"): [None, "200", 1, [], object(), HUGE],
    (Request, "timeout"): [*NO_NUMBERS, 0],
    (Request, "follow_redirects"): [*NO_FLAGS, None],
    (Reply, "status"): [*NO_INTS, 1_000, None],
    (Reply, "headers"): [None, 1, "A: b", [1], [("A", 1)], (("A", "\u20ac"),), object()],
    (Reply, "body"): [None, 1, "a", [], object()],
    (Reply, "delay"): [*NO_NUMBERS, None, timedelta(1)],
    (Reply, "body_sent"): NO_INTS,
}
RIGHT: dict[Callable[..., object], dict[str, Any]] = {
    Channel: {"name": "c"}, Request: {"method": "GET", "url": "https://h/"}
}  # fmt: skip
CALLED = {"name": "channel"}
"""Where the error has another word for it, which other calls have too."""


@pytest.mark.parametrize(("made", "argument"), WRONG, ids=[f"{made.__name__}-{argument}" for made, argument in WRONG])
def test_the_argument_is_named(made: Callable[..., object], argument: str) -> None:
    named = CALLED.get(argument, argument)
    for value in WRONG[made, argument]:
        with pytest.raises(InvalidRequest) as caught:
            made(**RIGHT.get(made, {}) | {argument: value})
        assert caught.value.argument == named
        assert str(caught.value).startswith(f"{named}: ")
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("made", {made for made, _ in WRONG}, ids=lambda made: made.__name__)
def test_what_is_right_is_taken(made: Callable[..., object]) -> None:
    made(**RIGHT.get(made, {}))


def test_the_limits_themselves_are_taken() -> None:
    TrioTransport(max_connections=1, max_connections_per_origin=1_000_000, keepalive=0, deadline=0, max_body=0)
    Reply(0, (("A", "\u00e9"),), b"", 0.0, 0)
