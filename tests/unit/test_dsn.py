"""Wrong connection strings: reason and remedy are said, the password is nowhere."""

import traceback
from typing import Any

import pytest

from requeuest_trio import Config, DatabaseUnavailable, InvalidRequest, migrate, open_requeuest
from requeuest_trio._model.dsn import HiddenText, option_for, problem_of

WRONG = [
    ("postgresql+psycopg://app:s3cret@h/db", r"remove \+psycopg"),
    ("postgresql+asyncpg://app:s3cret@h/db", r"remove \+asyncpg"),
    ("'postgresql://app:s3cret@h/db'", "remove the quotes"),
    ('"host=h password=s3cret"', "remove the quotes"),
    (" postgresql://app:s3cret@h/db", "white space"),
    ("postgresql://app:s3cret@h/db\n", "white space"),
    ("postgresql://app:%zzs3cret@h/db", "%25"),
    ("postgresql://app:x@s3cret@h/db", "%40"),
    ("postgresql://app:x/s3cret@h/db", "%2F"),
    ("postgresql://app:x?s3cret/@h/db", "parameter|%3F"),
    ("postgresql://app:s3cret@h/db?pgbouncer=true", "no parameter pgbouncer: remove it"),
    ("postgresql://app:s3cret@h/db?ssl=require", "write sslmode=require"),
    ("embeded:", "write embedded: with the colon"),
    ("embedded", "write embedded: with the colon"),
    ("postgresql://app:s3cret@h/db?sslmode", "name=value"),
    ("postgresql://app:s3cret@h:port/db", "port must be a number"),
    ("postgresql://s3cret:x:y/db", "port must be a number|understand"),
    ("postgresql://app:s3cret@[::1/db", "understand"),
    ("postgresql://app:s3cret\ud800@h/db", "surrogate"),
    ("postgresql://app:s3cret\0@h/db", "NUL"),
    ("mysql://app:s3cret@h/db", "must begin with postgresql://"),
    ("host=h password=x s3cret", "single quotes"),
    ("host=h password='s3cret", "understand|single quotes"),
    ("host=h port=s3cret", "port must be a number"),
]


def everything(error: BaseException) -> str:
    """All that a log, a terminal or a service for errors could show of it."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [line for line in shown.format() if "/tests/" not in line]
    links, link = [], error
    while link is not None:
        links += [str(link), repr(link), repr(link.args)]
        link = link.__cause__ or link.__context__  # type: ignore[assignment]
    return "".join(ours) + "".join(links)


@pytest.mark.parametrize(("dsn", "remedy"), WRONG)
async def test_the_remedy_is_said_and_no_password(dsn: str, remedy: str) -> None:
    calls: list[Any] = [lambda: open_requeuest(dsn).__aenter__(), lambda: migrate(dsn)]
    for call in calls:
        with pytest.raises(InvalidRequest, match=rf"^dsn: (?s:.*)({remedy})") as caught:
            await call()
        assert "s3cret" not in everything(caught.value)
    with pytest.raises(InvalidRequest, match=r"^listen_dsn: ") as told:
        Config(listen_dsn=dsn)
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    "dsn",
    ["", "postgresql://", "postgresql:///app", "postgres://app:x%40y@h:5432/db?sslmode=require", "host=h dbname='a b'",
     "postgresql://app@/db?host=/var/run/postgresql", "postgresql://h1:1,h2:2/db?target_session_attrs=any",
     "postgresql://[::1]:5432/db", "postgresql://%2Fvar%2Frun/db", "host=@abstract", "dbname=app password='a@b/c d'",
     "postgresql://h/db?ssl=true", "require_auth=scram-sha-256,md5", "require_auth=!password,!none", "require_auth=''",
     "replication=database",
     "postgresql://h/db?options=-c%20a%3Db", "postgresql://h/db?password=a@b", "service=app"],
)  # fmt: skip
def test_what_libpq_understands_is_fine(dsn: str) -> None:
    assert problem_of(dsn) is None


def test_a_hidden_text_is_a_text() -> None:
    assert HiddenText("a") == "a"
    assert repr(HiddenText("a")) == "'***'"
    assert repr({"dsn": HiddenText("a")}) == "{'dsn': '***'}"


async def test_a_server_that_is_not_there_shows_no_password_either() -> None:
    opening = open_requeuest("postgresql://app:s3cret@127.0.0.1:1/db")
    with pytest.raises(DatabaseUnavailable, match=r"not available|could not") as caught:
        await opening.__aenter__()
    assert "s3cret" not in everything(caught.value)


@pytest.mark.parametrize(
    ("dsn", "option", "remark"),
    [
        ("postgresql:///app", " --dsn postgresql:///app", ""),
        ("postgresql://", " --dsn postgresql://", ""),
        ("host='a b' user=u", """ --dsn 'host='"'"'a b'"'"' user=u'""", ""),
        ("postgresql://u:geheim@h/app", " --dsn 'user=u dbname=app host=h'", "with its password in PGPASSWORD or"),
        ("postgresql://h/app?password=geheim", " --dsn 'dbname=app host=h'", "with its password in PGPASSWORD or"),
        ("host=h sslpassword=geheim", "", "with the connection string in REQUEUEST_DSN"),
        ("host=h scram_client_key=geheim", "", "with the connection string in REQUEUEST_DSN"),
        ("host=h password='geheim", "", "with the connection string in REQUEUEST_DSN"),
        ("postgresql://u:geh?eim@h/app", "", "with the connection string in REQUEUEST_DSN"),
    ],
)
def test_a_command_to_paste(dsn: str, option: str, remark: str) -> None:
    shown = option_for(dsn)
    assert shown[0] == option
    assert (shown[1] == "") if remark == "" else shown[1].startswith(remark)
    assert "geheim" not in "".join(shown)


def test_what_may_be_a_part_of_a_password_is_not_named() -> None:
    problem = problem_of("postgresql://user:a?geheim=b@127.0.0.1/app")
    assert problem is not None
    assert "geheim" not in problem
