"""Every field of `Config` has limits, and says so."""

import math
from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from typing import Any

import pytest

from requeuest_trio import Config, InvalidRequest

INTEGERS = {
    "max_request_body",
    "max_response_body",
    "keep_response",
    "excerpt",
    "max_redirects",
    "max_running",
    "pool_size",
}
OPTIONAL = {"keep_succeeded", "keep_dead"}
NUMBERS = INTEGERS | OPTIONAL | {"attempt_timeout", "connect_timeout", "statement_timeout"}


def test_no_field_is_forgotten_here() -> None:
    others = {"notifications", "listen_dsn", "redirect_bodies_to", "sensitive"}
    assert {field.name for field in fields(Config)} == NUMBERS | others


@pytest.mark.parametrize("name", sorted(NUMBERS))
@pytest.mark.parametrize(
    "value", [-1, math.nan, math.inf, "1", True, [], 1e12, pytest.param(10**5_000, id="huge"), b"1", 1j]
)
def test_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: must be an? (int|number) from ") as caught:
        Config(**{name: value})
    assert caught.value.argument == name


@pytest.mark.parametrize("name", sorted(INTEGERS))
def test_count_is_no_float(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: must be an int"):
        Config(**{name: 2.0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(NUMBERS - OPTIONAL))
def test_only_the_keeping_times_may_be_none(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        Config(**{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_none_keeps_for_ever(name: str) -> None:
    assert getattr(Config(**{name: None}), name) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 0, 1, "on"])
def test_notifications_is_a_bool(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^notifications: must be a bool"):
        Config(notifications=value)


@pytest.mark.parametrize("value", [1, b"postgresql:///app", "nonsense", "postgresql://h:secret@[", "embedded:"])
def test_listen_dsn_is_a_connection_string_and_not_repeated(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^listen_dsn: ") as caught:
        Config(listen_dsn=value)
    assert "secret" not in str(caught.value)


def test_listen_dsn_may_hold_a_password_so_nothing_shows_it() -> None:
    assert "secret" not in repr(Config(listen_dsn="postgresql://me:secret@db.example.com/app"))


def test_listen_dsn_is_of_no_use_where_nothing_is_heard() -> None:
    with pytest.raises(InvalidRequest, match=r"^listen_dsn: is of no use with notifications=False"):
        Config(listen_dsn="postgresql:///app", notifications=False)


@pytest.mark.parametrize(
    "limits",
    [
        {"attempt_timeout": 0.001, "max_request_body": 0, "max_response_body": 0, "excerpt": 0, "max_redirects": 0},
        {"max_running": 1, "pool_size": 2, "connect_timeout": 0.1, "statement_timeout": 600, "keep_dead": 0.0},
        {"attempt_timeout": 86_400, "max_request_body": 268_435_456, "max_redirects": 20, "pool_size": 100},
    ],
)
def test_the_limits_themselves_are_allowed(limits: dict[str, Any]) -> None:
    config = Config(**limits)
    assert {name: getattr(config, name) for name in limits} == limits


def test_an_answer_is_kept_for_those_who_wait_for_it() -> None:
    with pytest.raises(InvalidRequest, match=r"^keep_succeeded: must be a number from 60 to"):
        Config(keep_succeeded=0.0)


def test_times_are_numbers_of_seconds() -> None:
    with pytest.raises(InvalidRequest, match=r"timedelta\(days=3\); write its total_seconds\(\)$"):
        Config(keep_succeeded=timedelta(days=3))  # type: ignore[arg-type]


def test_a_value() -> None:
    assert Config() == Config()
    assert hash(Config()) == hash(Config())
    with pytest.raises(FrozenInstanceError):
        Config().pool_size = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config(10.0)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["sensitive", "redirect_bodies_to"])
@pytest.mark.parametrize("value", ["X-Tenant", 7, [7], None])
def test_names_are_a_collection_of_str(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        Config(**{name: value})


def test_names_are_compared_without_case() -> None:
    config = Config(sensitive=["X-Tenant"], redirect_bodies_to=["HTTPS://Api.example.com:443/"])
    assert config.sensitive == {"x-tenant"}
    assert config.redirect_bodies_to == {"https://api.example.com"}
    assert hash(config) == hash(Config(sensitive=["x-tenant"], redirect_bodies_to=["https://api.example.com"]))
