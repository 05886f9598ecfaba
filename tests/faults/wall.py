"""
The clock on a database's wall, which a test can set.

In PostgreSQL the functions that tell the time are replaced in a database of the test's own, once its tables are made,
and so are the defaults that they stand in: whatever asks for the time then gets it from here. A step is one commit, so
that everybody sees it at the same moment, as with a real clock. This needs no rights but those of the test's own
superuser, and works on every machine.

If each false time is further from the others and from the real one than the test is long, what is stored tells by which
of them it was written: `clock_of` in `history.py` makes use of that.
"""

from __future__ import annotations

from functools import partial

import psycopg
import trio

SCHEMA = """
CREATE SCHEMA wall;
CREATE TABLE wall.clock (ahead interval NOT NULL, apart interval);
INSERT INTO wall.clock VALUES ('0', NULL);
"""
FUNCTIONS = {
    "now": "STABLE",
    "transaction_timestamp": "STABLE",
    "statement_timestamp": "STABLE",
    "clock_timestamp": "VOLATILE",
}
FUNCTION = """
ALTER FUNCTION pg_catalog.{name}() RENAME TO real_{name};
CREATE FUNCTION pg_catalog.{name}() RETURNS timestamptz LANGUAGE sql {volatility} PARALLEL SAFE
AS 'SELECT pg_catalog.real_{name}() OPERATOR(pg_catalog.+) (SELECT ahead FROM wall.clock)';
"""
DEFAULTS = """
DO $$
DECLARE made record;
BEGIN
    FOR made IN SELECT adrelid::regclass AS of_table, attname
                FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
                WHERE pg_get_expr(adbin, adrelid) = 'real_now()'
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT now()', made.of_table, made.attname);
    END LOOP;
END $$;
"""


class Wall:
    """The clock of one database, which has the tables of the queue, and which nobody uses yet."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def hang_up(self, apart: float | None = None) -> None:
        """From now on it can be set; to multiples of `apart`, if what is stored is to be dated afterwards."""
        functions = "".join(FUNCTION.format(name=name, volatility=how) for name, how in FUNCTIONS.items())
        await trio.to_thread.run_sync(self._run, SCHEMA + functions + DEFAULTS)
        if apart is not None:
            await trio.to_thread.run_sync(self._run, f"UPDATE wall.clock SET apart = '{apart} s'")

    async def set(self, ahead: float) -> None:
        """Set it to so many seconds ahead of the real time."""
        await trio.to_thread.run_sync(partial(self._run, f"UPDATE wall.clock SET ahead = '{ahead} s'"))

    def _run(self, statements: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statements.encode())
