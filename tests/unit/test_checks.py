"""Plain arguments that more than one public call takes."""

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio import ALL, Channel, InvalidRequest
from requeuest_trio._model import checks
from requeuest_trio._model.channel import channels_of

HUGE = 10**5_000


class Odd(tzinfo):
    """A zone that answers with something, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def utcoffset(self, when: datetime | None) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def dst(self, _when: datetime | None) -> None:
        return None

    def tzname(self, _when: datetime | None) -> None:
        return None


def refuses(argument: str, limit: str) -> Any:
    return pytest.raises(InvalidRequest, match=f"^{argument}: .*{limit}")


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "\ud800", None, 7, True, b"mail", ["mail"]])
def test_channel_name(name: Any) -> None:
    with refuses("channel", r"(200 characters|NUL|str)"):
        checks.channel_name(name)
    with refuses("channel", ""):
        Channel(name)
    with refuses("channels?", ""):
        channels_of([name])


@pytest.mark.parametrize("name", ["x", "x" * 200, "\U0001f600" * 200, " ", "a\nb", "'; DROP TABLE job; --"])
def test_any_other_text_names_a_channel(name: str) -> None:
    assert checks.channel_name(name) == name
    assert Channel(name).name == name


@pytest.mark.parametrize(
    "char",
    ["\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\u200f", "\ufeff"],
)
def test_a_new_name_steers_no_line(char: str) -> None:
    with refuses("channel", "control or bidirectional"):
        checks.new_name("channel", f"a{char}b", 200)
    with refuses("ordering_key", "control or bidirectional"):
        checks.new_name("ordering_key", char, 200)


@pytest.mark.parametrize(
    "name", ["Ünï cödé", "\u05d0\u05d1", "\u06cc\u200c\u062e", "\U0001f469\u200d\U0001f4bb", "\u3000"]
)
def test_other_scripts_make_names(name: str) -> None:
    assert checks.new_name("channel", name, 200) == name


@pytest.mark.parametrize("names", ["mail", 7, None, [7], [""]])
def test_channel_names(names: Any) -> None:
    with refuses("channels?", ""):
        checks.channel_names(names)


def test_channel_names_are_sorted_and_single() -> None:
    assert checks.channel_names(iter(["b", "a", "b"])) == ["a", "b"]
    assert checks.channel_names([]) == []


@pytest.mark.parametrize("channels", ["mail", 7, None, ["a", "a"], ["a", Channel("a")], [7], [None]])
def test_channels_to_deliver(channels: Any) -> None:
    with refuses("channels?", ""):
        channels_of(channels)


def test_channels_with_settings() -> None:
    ledger = Channel("ledger", ordered=True)
    assert channels_of(["mail", ledger]) == (frozenset({"mail", "ledger"}), (ledger,))
    assert channels_of(ALL) == (ALL, ())
    assert channels_of(()) == (frozenset(), ())
    assert repr(ALL) == "ALL"


@pytest.mark.parametrize("ordered", [0, 1, "yes"])
def test_ordered_is_a_bool(ordered: Any) -> None:
    with refuses("ordered", "bool"):
        Channel("a", ordered=ordered)


def test_a_channel_without_settings_has_none_to_keep() -> None:
    assert channels_of([Channel("a"), Channel("b", ordered=False)])[1] == (Channel("b", ordered=False),)


def test_settings_of_a_channel_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        Channel("a", True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("value", "positive", "limit"),
    [
        (-1, False, "at least 0"),
        (-math.inf, False, "at least 0"),
        (timedelta(seconds=-1), False, "at least 0"),
        (0, True, "more than 0"),
        (math.nan, False, "ten years"),
        (math.inf, False, "ten years"),
        pytest.param(HUGE, False, "ten years", id="huge"),
        (timedelta.max, False, "ten years"),
        (checks.MAX_SECONDS + 1, False, "ten years"),
        (True, False, "seconds or a timedelta"),
        ("1", False, "seconds or a timedelta"),
        (None, False, "seconds or a timedelta"),
        (Decimal(1), False, "seconds or a timedelta"),
    ],
)
def test_seconds(value: Any, positive: bool, limit: str) -> None:
    with refuses("delay", limit):
        checks.seconds("delay", value, positive=positive)


def test_seconds_of_all_kinds() -> None:
    values: list[float | timedelta] = [0, 1, 1.5, timedelta(minutes=1), checks.MAX_SECONDS]
    assert [checks.seconds("delay", value) for value in values] == [0.0, 1.0, 1.5, 60.0, checks.MAX_SECONDS]


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        (datetime(2026, 1, 1), "aware"),  # noqa: DTZ001
        (datetime.min.replace(tzinfo=UTC), "1970"),
        (datetime.max.replace(tzinfo=UTC), "9000"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))), "9000"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=23))), "1970"),
        (datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=23))), "1970 .* in UTC, not in 1969"),
        (datetime(9000, 12, 31, 23, tzinfo=timezone(timedelta(hours=-23))), "9000 in UTC, not in 9001"),
        (datetime(2026, 1, 1, tzinfo=Odd(ZeroDivisionError("no zone"))), "tzinfo .*no zone"),
        (datetime(2026, 1, 1, tzinfo=Odd("an hour")), "tzinfo"),
        (datetime(2026, 1, 1, tzinfo=Odd(timedelta(days=2))), "tzinfo"),
        (datetime(2026, 1, 1, tzinfo=UTC).date(), "datetime"),
        ("2026-01-01T00:00:00Z", "datetime"),
        (0, "datetime"),
        (None, "datetime"),
    ],
)
def test_instant(value: Any, limit: str) -> None:
    with refuses("at", limit):
        checks.instant("at", value)


def test_an_instant_is_at_the_edge_in_utc() -> None:
    first = datetime(1969, 12, 31, 1, tzinfo=timezone(timedelta(hours=-23)))
    assert checks.instant("at", first) == datetime(1970, 1, 1, tzinfo=UTC)


def test_an_instant_is_what_it_is_and_not_what_it_says() -> None:
    lies: dict[str, Any] = {"astimezone": lambda *_: "soon", "utcoffset": lambda _: None, "replace": lambda *_: None}
    lies |= {"year": 1, "date": lambda _: None, "time": lambda _: None, "__sub__": lambda *_: 1, "__le__": lambda *_: 1}
    checked = checks.instant("at", type("Liar", (datetime,), lies)(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert type(checked) is datetime
    assert checked == datetime(2025, 12, 31, 23, tzinfo=UTC)


@given(
    st.datetimes(
        datetime(1970, 1, 2), datetime(9000, 12, 30), timezones=st.timezones()  # noqa: DTZ001
    ) | st.builds(
        lambda offset: datetime(2026, 1, 1, tzinfo=timezone(offset)),
        st.timedeltas(timedelta(hours=-23), timedelta(hours=23)),
    )
)  # fmt: skip
def test_instant_is_the_same_in_utc(value: datetime) -> None:
    """PostgreSQL can't read an offset of microseconds, which Python can write."""
    checked = checks.instant("at", value)
    assert checked.tzinfo is UTC
    assert checked - value.astimezone(UTC) == timedelta(0)


@pytest.mark.parametrize("value", [-101, 101, pytest.param(HUGE, id="huge"), 1.0, True, "1", None])
def test_priority(value: Any) -> None:
    with refuses("priority", "(-100 to 100|int)"):
        checks.priority(value)


def test_priority_at_its_limits() -> None:
    assert [checks.priority(value) for value in (-100, 0, 100)] == [-100, 0, 100]


@pytest.mark.parametrize("value", ["0190b5f6-0000-7000-8000-000000000000", 7, None, b"x" * 16])
def test_job_id(value: Any) -> None:
    with refuses("job_id", "UUID"):
        checks.job_id(value)


def test_job_id_of_any_version() -> None:
    assert checks.job_id(UUID(int=0)) == UUID(int=0)
