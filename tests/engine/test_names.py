"""
Names that are looked up along a `search_path` which is not the library's own. Invariant: there is none, in a statement
that may run before the path is set, or in an application's transaction, nor in a function that may be called in one.

Whoever may create in one of the schemas of such a path could otherwise have his function, operator or type taken for
PostgreSQL's, and run code with the rights of the library or of the application. `test_shadowing.py` tries that out.
"""

import pytest

from requeuest_trio._store.migrate import Migration, migrations
from requeuest_trio._store.queries import Queries
from tests.engine.names import looked_up, looked_up_by_functions

UNPINNED = {
    # Before the path is set, or where no session is sure to have it.
    "begin", "begin_reading", "configure", "clean_session", "prepared_statements", "forget_prepared_statements",
    "backend",
    # In a transaction that is lent to the application, or of its own.
    "leave_session_to_caller", "leave_transaction_timeout_to_caller", "make_room_for_notifications",
    "spawn_one", "spawn_claimed", "spawn", "spawn_ordered", "not_stored", "announce", "ordered_channels",
    "lock_keys", "try_keys",
}  # fmt: skip
QUERIES = Queries("requeuest")


@pytest.mark.parametrize("name", sorted(UNPINNED))
def test_a_statement_that_may_meet_any_path_looks_nothing_up(name: str) -> None:
    assert looked_up(QUERIES[name].decode()) == []


@pytest.mark.parametrize("step", migrations(), ids=lambda step: step.name)
def test_a_function_that_may_be_called_with_any_path_looks_nothing_up(step: Migration) -> None:
    for text in (step.up, step.down):
        assert not any(looked_up_by_functions(QUERIES.filled_in(text).decode()).values())


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SELECT f(1)", "f"),
        ("SELECT pg_catalog.count(*) FILTER (WHERE s.a = 1) FROM s.t", "="),
        ("SELECT a::text FROM s.t", "text"),
        ("SELECT CAST(a AS uuid) FROM s.t", "uuid"),
        ("SELECT a::text[] FROM s.t", "text"),
        ("SELECT a::json FROM s.t", "json"),
        ("SELECT -a FROM s.t", "-"),
        ("SELECT a || b FROM s.t", "||"),
        ("SELECT FROM s.t WHERE a IN (1, 2)", "="),
        ("SELECT FROM s.t WHERE a IN (SELECT b FROM s.u)", "="),
        ("SELECT FROM s.t WHERE a = ANY ($1)", "="),
        ("SELECT FROM s.t WHERE a <> ALL (SELECT b FROM s.u)", "<>"),
        ("SELECT FROM s.t WHERE (a, b) < (c, d)", "<"),
        ("SELECT FROM s.t WHERE a BETWEEN 1 AND 2", "BETWEEN"),
        ("SELECT FROM s.t WHERE a LIKE 'b'", "~~"),
        ("SELECT FROM s.t WHERE a IS DISTINCT FROM b", "="),
        ("SELECT nullif(a, b) FROM s.t", "="),
        ("SELECT CASE a WHEN 1 THEN 2 END FROM s.t", "="),
        ("SELECT FROM s.t JOIN s.u USING (a)", "="),
        ("SELECT FROM s.t NATURAL JOIN s.u", "="),
        ("SELECT a FROM s.t ORDER BY a USING <", "<"),
        ("SELECT FROM t", "t"),
        ("INSERT INTO t SELECT FROM s.t", "t"),
        ("INSERT INTO s.t (a) VALUES (1) ON CONFLICT (a COLLATE c) DO NOTHING", "c"),
        ("SELECT 't'::pg_catalog.regclass", "what a regclass is made of"),
        ("SELECT $1::pg_catalog.regproc", "what a regproc is made of"),
        ("SELECT a COLLATE c FROM s.t", "CollateClause"),
        ("DO $$ BEGIN END $$", "DoStmt"),
    ],
)
def test_what_is_looked_up_is_found(sql: str, name: str) -> None:
    assert looked_up(sql) == [name]


def test_what_the_grammar_itself_knows_is_none_of_it() -> None:
    known = "coalesce(a, b), greatest(a, b), extract(epoch FROM a), interval '1 s', a::boolean, current_user"
    assert looked_up(f"WITH c AS (SELECT FROM s.t) SELECT {known} FROM s.t, c ORDER BY a") == []


@pytest.mark.parametrize(
    ("definition", "names"),
    [
        ("LANGUAGE sql RETURN f(1)", []),
        ("LANGUAGE sql AS 'SELECT s.f(1)'", ["a body that is kept as text"]),
        ("LANGUAGE plpgsql AS 'DECLARE a text; BEGIN RETURN s.f(1); END'", ["text"]),
        ("LANGUAGE plpgsql AS 'DECLARE a pg_catalog.text; BEGIN a := f(1); RETURN a = 1; END'", ["f", "="]),
        ("LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp AS 'BEGIN RETURN f(1); END'", []),
        ("LANGUAGE plpgsql SET search_path TO s AS 'BEGIN RETURN s.f(1); END'", ["search_path"]),
    ],
)
def test_what_functions_look_up_is_found(definition: str, names: list[str]) -> None:
    assert looked_up_by_functions(f"SELECT 1; CREATE FUNCTION s.g() RETURNS integer {definition}") == {"g": names}
