"""A server that insists on passwords, and on TLS if it can do that."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import trustme
from psycopg.conninfo import make_conninfo

from requeuest_trio._embedded.account import server_account
from tests.servers import binaries, temporary_home, wait_for

WITH_TLS = Path("/usr/lib/postgresql/15/bin")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Secured:
    """A server on a TCP port where the user ``secured`` needs a password, and TLS if the server can do that.

    The user ``barred`` is rejected, and of databases only ``postgres`` and ``nowhere``, which is not there, let in.
    """

    def __init__(self, port: int, authority: Path, tls: bool) -> None:
        self.port, self.authority, self.tls = port, authority, tls

    def dsn(self, **params: object) -> str:
        mode = {"sslmode": "verify-full", "sslrootcert": str(self.authority)} if self.tls else {}
        known = {"host": "localhost", "hostaddr": "127.0.0.1", "port": self.port, "user": "secured"}
        return make_conninfo(**{**known, "dbname": "postgres", "password": "pässword", **mode, **params})  # type: ignore[arg-type]  # strings and a number


@contextmanager
def running_secured(*, tls: bool) -> Iterator[Secured]:
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
        rules = (
            "local all postgres trust\n"
            "host all barred 127.0.0.1/32 reject\n"
            f"{kind} postgres,nowhere all 127.0.0.1/32 scram-sha-256\n"
        )
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
            with _connected_when_ready(admin) as connection:
                connection.execute("create role secured login password 'pässword'")
                connection.execute("create role sleeper nologin password 'pässword'")
            yield Secured(port, home / "authority.pem", tls)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def _connected_when_ready(dsn: str) -> psycopg.Connection:
    connection: psycopg.Connection | None = None

    def connected() -> bool:
        nonlocal connection
        with suppress(psycopg.OperationalError):
            connection = psycopg.connect(dsn, autocommit=True)
        return connection is not None

    wait_for(connected)
    assert connection
    return connection
