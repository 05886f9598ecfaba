"""A server that insists on passwords, and on TLS if it can do that."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import trustme
from psycopg.conninfo import make_conninfo

from tests.throwaway import Throwaway, throwaway_server

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
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    kind = "hostssl" if tls else "host"
    rules = (
        "local all postgres trust\n"
        "host all barred 127.0.0.1/32 reject\n"
        f"{kind} postgres,nowhere all 127.0.0.1/32 scram-sha-256\n"
    )

    def prepare(server: Throwaway) -> None:
        server.write("pg_hba.conf", rules.encode())
        server.write("server.key", certificate.private_key_pem.bytes())
        server.write("server.crt", certificate.cert_chain_pems[0].bytes())

    port = free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "ssl": "on" if tls else "off", "fsync": "off"}
    with (
        throwaway_server(settings, programs=WITH_TLS if tls else None, prepare=prepare) as server,
        authority.cert_pem.tempfile() as trusted,
    ):
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("create role secured login password 'pässword'")
            connection.execute("create role sleeper nologin password 'pässword'")
        yield Secured(port, Path(trusted), tls)
