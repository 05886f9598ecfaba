"""The public helpers for what comes from people and is shown to them: they are what the library itself uses."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from requeuest_trio import InvalidRequest, Request, checks, masking


def test_a_url_and_a_text_that_quotes_one_lose_their_credentials() -> None:
    assert (
        masking.masked_url("https://ada:pw@example.com/?token=abc&page=2")
        == "https://***@example.com/?token=***&page=2"
    )
    assert masking.masked_url("at https://example.com/?plan=a", ["plan"]) == "at https://example.com/?plan=***"


def test_header_fields_lose_their_credentials() -> None:
    request = Request.get("https://example.com/", headers={"X-Api-Key": "abc", "X-Plan": "a", "Accept": "text/html"})
    assert masking.masked_headers(request.headers, ["x-plan"]) == (
        ("X-Api-Key", "***"),
        ("X-Plan", "***"),
        ("Accept", "text/html"),
    )


@pytest.mark.parametrize("dsn", ["postgresql:///app", "dbname=app host=/run/postgresql"])
def test_a_connection_string_without_a_secret_stays_as_it_is(dsn: str) -> None:
    assert masking.masked_dsn(dsn) == dsn


def test_a_password_is_left_out() -> None:
    shown = masking.masked_dsn("postgresql://ada:pw@db/app")
    assert shown is not None
    assert conninfo_to_dict(shown) == {"user": "ada", "host": "db", "dbname": "app"}


@pytest.mark.parametrize("dsn", ["postgresql://db/?sslpassword=pw", "postgresql://ada:p@w@db/", "dbname='"])
def test_what_cannot_be_shown_safely_is_not_shown(dsn: str) -> None:
    assert masking.masked_dsn(dsn) is None


@pytest.mark.parametrize("check", [checks.channel_name, checks.ordering_key], ids=lambda check: check.__name__)
def test_names_are_checked_as_spawn_does(check: object) -> None:
    assert callable(check)
    assert check("mail") == "mail"
    assert check("x" * 200) == "x" * 200
    for refused in ("", "x" * 201, "a\nb", "\u202ea", "\0", 7, None):
        with pytest.raises(InvalidRequest):
            check(refused)
