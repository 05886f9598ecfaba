"""Other roles of the database, for tests of what they can do to the queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.poolers import direct

_numbers = count(1)


@contextmanager
def another_role(dsn: str, *rights: str) -> Iterator[str]:
    """A role that may log in, and what `rights` say, SQL with `{role}`. Gives its DSN; goes with all that it owns."""
    with psycopg.connect(direct(dsn), autocommit=True) as admin:
        name = f"other_{admin.info.backend_pid}_{next(_numbers)}"
        role = sql.Identifier(name)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        try:
            for right in rights:
                admin.execute(sql.SQL(right).format(role=role))
            yield make_conninfo(direct(dsn), user=name)
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(role))
