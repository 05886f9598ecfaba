"""How claiming slows down while this machine lacks something, and how it comes back."""

from __future__ import annotations

import errno
import logging
import os
import socket

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio._engine.shortages import Shortages
from requeuest_trio._http.net.shortages import OutOfResources, is_shortage, lacks_descriptors, lacks_ports
from requeuest_trio._observe.emitter import Emitter

LOGGER = "requeuest_trio.dispatcher"


def test_a_channel_of_which_nothing_goes_pauses_then_tries_one() -> None:
    shortages = Shortages(32, Emitter())
    pauses = []
    now = 100.0
    for _ in range(6):
        for running in (2, 1, 0, 0):
            shortages.met("a", running, "no descriptor", now)
        assert shortages.limit("a") == 0
        pauses.append(shortages.next_change - now)
        now = shortages.next_change
        shortages.ease(now)
        assert shortages.limit("a") == 1
    assert 0.25 <= pauses[0] <= 0.5
    assert all(pause <= 5.0 for pause in pauses)


def test_failures_in_a_row_pause_for_longer_and_longer() -> None:
    shortages, now, pauses = Shortages(32, Emitter()), 0.0, []
    for _ in range(8):
        shortages.met("a", 0, "no descriptor", now)
        pauses.append(shortages.next_change - now)
        now = shortages.next_change
        shortages.ease(now)
    assert max(pauses[:2]) <= 1.0
    assert min(pauses[4:]) >= 2.5


def test_a_channel_keeps_what_goes_and_gets_a_little_more_each_second() -> None:
    shortages, now = Shortages(32, Emitter()), 0.0
    for running in (31, 30, 22):
        shortages.met("a", running, "no descriptor", now)
    limits = []
    while "a" in shortages:
        limits.append(shortages.limit("a"))
        now = shortages.next_change
        shortages.ease(now)
    assert limits == [22, 24, 27, 30]
    assert "b" not in shortages


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 32), st.floats(0, 10)), max_size=50), st.integers(1, 40)
)
def test_it_ends_by_itself(met: list[tuple[str, int, float]], concurrency: int) -> None:
    shortages, now = Shortages(concurrency, Emitter()), 0.0
    for channel, running, seconds in met:
        now += seconds
        shortages.ease(now)
        shortages.met(channel, running, "no descriptor", now)
        assert now <= shortages.next_change <= now + 5.0
    ends = now
    while shortages.next_change < float("inf"):
        assert shortages.next_change >= now
        now = max(now, shortages.next_change)
        shortages.ease(now)
    assert now - ends < 60
    assert "a" not in shortages


def test_it_is_told_once_a_minute_and_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    shortages = Shortages(4, Emitter())
    for second in range(130):
        shortages.met("a", 1, "no descriptor", float(second))
        shortages.tell(float(second))
    told = [record.fields["jobs"] for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [1, 60, 60]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    caplog.clear()
    now = 130.0
    while "a" in shortages:
        now += 1.0
        shortages.ease(now)
    [over] = caplog.records
    assert over.levelno == logging.INFO
    assert over.fields == {"jobs": 130}  # type: ignore[attr-defined]
    caplog.clear()
    # One that follows at once is told when the minute is over, or not at all.
    shortages.met("a", 0, "no descriptor", now)
    shortages.tell(now)
    while "a" in shortages:
        now += 1.0
        shortages.ease(now)
    assert not caplog.records


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def hidden(error: BaseException, cause: BaseException) -> BaseException:
    error.__context__, error.__suppress_context__ = cause, True
    return error


FULL = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *(
            (OSError(code, os.strerror(code)), True)
            for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)
        ),
        *(
            (OSError(code, os.strerror(code)), False)
            for code in (errno.ECONNREFUSED, errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH)
        ),
        (MemoryError(), True),
        (OutOfResources("no thread"), True),
        (RuntimeError("something else"), False),
        (httpx2.ConnectError("no"), False),
        (chained(httpx2.ConnectError("no"), FULL), True),
        (hidden(httpx2.ConnectError("no"), FULL), True),
        (chained(OSError("all failed"), ExceptionGroup("", [REFUSED, FULL])), True),
        (chained(OSError("all failed"), ExceptionGroup("", [REFUSED, REFUSED])), False),
        # Its number is no errno, and may be that of one.
        (socket.gaierror(errno.ENOMEM, "something of the resolver's"), False),
    ],
)
def test_what_is_a_shortage(error: BaseException, expected: bool) -> None:
    assert is_shortage(error) is expected


def test_causes_without_end() -> None:
    one, two = OSError("one"), OSError("two")
    one.__cause__, two.__cause__ = two, one
    assert not is_shortage(one)


def test_this_machine_lacks_nothing() -> None:
    assert not lacks_descriptors()


def test_ports_are_lacking_only_where_there_is_an_address() -> None:
    assert lacks_ports(socket.AF_INET, ("127.0.0.1", 80))
    assert not lacks_ports(socket.AF_INET6, ("2001:db8::1%bogus", 80))
