"""When it is tried again: the policy, the wait, and what `Retry-After` may change about it."""

import copy
import dataclasses
import json
import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio import InvalidRequest, RetryPolicy, StatusClass
from requeuest_trio._model.checks import MAX_SECONDS
from requeuest_trio._model.retry import DEFAULT_RETRY, retry_after_seconds, wait_after

EXACT = RetryPolicy(jitter=0)
NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)


def always(number: float) -> Callable[[], float]:
    return lambda: number


# --- the policy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value", "limit"),
    [
        *(("max_attempts", value, "1 to 1,000,000") for value in [0, -1, 1_000_001, 1.5, True, "3", None]),
        *(("initial", value, "more than 0") for value in [0, -1, timedelta(0)]),
        *(("initial", value, "ten years") for value in [math.nan, math.inf, 1e9]),
        *(("initial", value, "seconds") for value in ["1", True, None]),
        *(("multiplier", value, "from 1 to 100") for value in [0.5, 101, math.nan, math.inf, "2", True, None, -1]),
        *(("max_backoff", value, "at least initial") for value in [0.5, timedelta(milliseconds=1)]),
        *(("max_backoff", value, "more than 0") for value in [0, -1]),
        *(("max_backoff", value, "ten years") for value in [math.inf, math.nan, timedelta.max]),
        *(("jitter", value, "from 0 to 1") for value in [-0.1, 1.1, math.nan, "0", True, None]),
        *(("give_up_on", value, "status") for value in [99, "404", True, range(400, 500, 2), None]),
        *(("respect_retry_after", value, "bool") for value in [1, 0, None, "yes"]),
    ],
)
def test_refused(argument: str, value: Any, limit: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RetryPolicy(**{argument: value})
    assert caught.value.argument == argument
    assert limit in str(caught.value)


@pytest.mark.parametrize("argument", ["max_attempts", "initial", "multiplier", "max_backoff", "jitter", "give_up_on"])
def test_number_too_long_to_be_written_is_refused(argument: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{argument}: "):
        RetryPolicy(**{argument: 10**5_000})  # type: ignore[arg-type]


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[call-arg]


def test_a_value() -> None:
    policy = RetryPolicy(initial=timedelta(seconds=2), max_backoff=60, give_up_on=[404, 400])
    assert policy == RetryPolicy(initial=2.0, max_backoff=timedelta(minutes=1), give_up_on=(400, 404))
    assert hash(policy) == hash(copy.copy(policy))
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert dataclasses.replace(policy, max_attempts=3).max_attempts == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.jitter = 0  # type: ignore[misc]


def test_defaults_are_those_of_the_contract() -> None:
    assert dataclasses.astuple(RetryPolicy()) == (100_001, 1.0, 2.0, 3600.0, 0.1, (), True)


POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 1_000_000),
    initial=st.floats(0, 3600, exclude_min=True),
    multiplier=st.floats(1, 100),
    max_backoff=st.floats(3600, MAX_SECONDS),
    jitter=st.floats(0, 1),
    give_up_on=st.lists(st.integers(100, 599) | st.sampled_from(StatusClass), max_size=4),
    respect_retry_after=st.booleans(),
)


@given(POLICIES)
def test_json_round_trip(policy: RetryPolicy) -> None:
    assert RetryPolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


def test_default_takes_no_room_in_the_database() -> None:
    assert DEFAULT_RETRY.to_json() == {}
    assert RetryPolicy.from_json(None) == RetryPolicy.from_json({}) == DEFAULT_RETRY
    assert RetryPolicy(max_attempts=3, give_up_on=StatusClass.CLIENT_ERROR).to_json() == {
        "max_attempts": 3,
        "give_up_on": [[400, 500]],
    }


@pytest.mark.parametrize(
    "stored",
    [
        [], "x", 7, {"max_attempts": "3"}, {"unknown": 1}, {"give_up_on": 404}, {"give_up_on": [404]},
        {"give_up_on": [["a", "b"]]}, {"give_up_on": [[0, 10**9]]}, {"initial": None}, {"jitter": [1]},
    ],
)  # fmt: skip
def test_damaged_json_raises_what_the_engine_expects(stored: Any) -> None:
    if stored == []:
        assert RetryPolicy.from_json(stored) == DEFAULT_RETRY
    else:
        with pytest.raises((InvalidRequest, TypeError, ValueError)):
            RetryPolicy.from_json(stored)


# --- the wait ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        (EXACT, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]),
        (RetryPolicy(jitter=0, multiplier=1), [1, 1, 1, 1]),
        (RetryPolicy(jitter=0, initial=0.5, multiplier=3, max_backoff=10), [0.5, 1.5, 4.5, 10, 10]),
        (RetryPolicy(jitter=0, initial=10, max_backoff=10), [10, 10, 10]),
        (RetryPolicy(jitter=0, multiplier=100, max_backoff=MAX_SECONDS), [1, 100, 1e4, 1e6, 1e8, MAX_SECONDS]),
    ],
)
def test_exact_waits(policy: RetryPolicy, waits: list[float]) -> None:
    assert [wait_after(policy, attempt, None, always(0.5)) for attempt in range(1, len(waits) + 1)] == waits


@pytest.mark.parametrize("attempt", [100_000, 1_000_000, 2**31])
@pytest.mark.parametrize(
    "policy",
    [
        EXACT,
        RetryPolicy(jitter=0, multiplier=100, max_backoff=3600),
        RetryPolicy(jitter=0, initial=5e-324, multiplier=2, max_backoff=3600),
    ],
)
def test_late_attempts_wait_for_the_cap(policy: RetryPolicy, attempt: int) -> None:
    """2.0 ** 100_000 is no float."""
    assert wait_after(policy, attempt, None, always(0.5)) == 3600


@pytest.mark.parametrize(("random", "wait"), [(0.0, 3.6), (0.5, 4.0), (1.0, 4.4)])
def test_jitter_spreads_to_both_sides(random: float, wait: float) -> None:
    assert wait_after(RetryPolicy(jitter=0.1), 3, None, always(random)) == pytest.approx(wait)


@given(policy=POLICIES, attempt=st.integers(1, 200_000), random=st.floats(0, 1))
def test_wait_is_always_between_nothing_and_the_cap(policy: RetryPolicy, attempt: int, random: float) -> None:
    wait = wait_after(policy, attempt, None, always(random))
    base = wait_after(dataclasses.replace(policy, jitter=0), attempt, None, always(random))
    assert 0 <= wait <= policy.max_backoff
    assert base * (1 - policy.jitter) * 0.999 <= wait <= base * (1 + policy.jitter) * 1.001


@given(
    policy=POLICIES,
    attempt=st.integers(1, 200_000),
    random=st.floats(0, 1),
    asked=st.floats(0, allow_nan=False, allow_infinity=False),
)
def test_retry_after_never_goes_below_the_backoff_or_above_the_cap(
    policy: RetryPolicy, attempt: int, random: float, asked: float
) -> None:
    without = wait_after(policy, attempt, None, always(random))
    wait = wait_after(policy, attempt, asked, always(random))
    assert without <= wait <= policy.max_backoff
    if policy.respect_retry_after:
        assert wait >= min(asked, policy.max_backoff)
    else:
        assert wait == without


# --- Retry-After ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("00000000000000000005", 5),
        ("31536000", 31_536_000),
        ("9" * 5_000, MAX_SECONDS),
        # The three formats of an HTTP-date, RFC 9110 section 5.6.7, all a minute from now.
        ("Sat, 14 Mar 2026 15:10:26 GMT", 60),
        ("Saturday, 14-Mar-26 15:10:26 GMT", 60),
        ("Sat Mar 14 15:10:26 2026", 60),
        ("Sat, 14 Mar 2026 16:10:26 +0100", 60),
        ("Sat, 14 Mar 2026 15:10:26 -0000", 60),
        ("Sun, 14 Mar 2027 15:09:26 GMT", 31_536_000),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Sun Nov  6 08:49:37 1994", 0),
        (None, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("soon", None),
        ("120s", None),
        ("١٢", None),
        ("²", None),
        ("Sat, 99 Mar 2026 15:10:26 GMT", None),
        ("Sat, 14 Mar 2026 25:10:26 GMT", None),
        ("2026-03-14T15:10:26Z", None),
        ("\x00", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


def test_retry_after_is_compared_in_any_zone() -> None:
    here = NOW.astimezone(timezone(timedelta(hours=-9)))
    assert retry_after_seconds("Sat, 14 Mar 2026 15:10:26 GMT", here) == 60


NEARLY_DATES = st.lists(
    st.sampled_from(
        ["Sat,", "Sat", "14", "Mar", "2026", "99999", "15:10:26", "15:10", "GMT", "+9999", "-2359", "0", "\t"]
    ),
    max_size=8,
).map(" ".join)


@given(st.text(max_size=30) | NEARLY_DATES)
def test_any_text_is_read_or_ignored(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or seconds >= 0
