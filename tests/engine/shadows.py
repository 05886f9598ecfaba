"""
Traps: objects with the names of all that the library's SQL looks up, in a schema that another role may create in, each
of which tells that it was used.

The names are those that stand in the statements and the migrations. The signatures are those of PostgreSQL's own
objects of these names, which count where the schema stands before PostgreSQL's; and better ones, which count wherever
it stands: for a type that PostgreSQL's function or operator takes only after a conversion, or as one of many, one that
takes that very type. A trap notes its number in a sequence, which no rollback undoes. (Or else what uses it fails, as a
query does that finds a function where it has named an aggregate.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count, islice, product
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo

from requeuest_trio._store.migrate import migrations
from requeuest_trio._store.queries import parsed
from tests.poolers import direct

_SQL = re.sub(
    r"--.*|%(\(\w+\)[sb])?",
    "",
    "\n".join([*parsed().values(), *(text for step in migrations() for text in (step.up, step.down))]),
)
_WORDS = sorted(set(re.findall(r"[a-z_]\w*", _SQL)))
_OPERATORS = sorted({*re.findall(r"[-+*/<>=~!@#%^&|`?]+", _SQL), "~~", "!~~"})
"""Those that are written, and those of LIKE. What else the grammar looks up, as for IN, NULLIF and USING, is `=`."""
_TABLES = sorted(set(re.findall(r"CREATE TABLE (?:\{schema\}\.)?(\w+)", _SQL)))

_TYPES = (
    "text", "name", "character varying", "uuid", "bigint", "integer", "smallint", "oid", "boolean", "bytea", "json",
    "jsonb", "timestamp with time zone", "interval", "double precision", "numeric", "int4multirange", "regclass",
    "text[]", "uuid[]",
)  # fmt: skip
_ANY = {'"any"', "anyelement", "anynonarray", "anyenum", "anyrange", "anymultirange", "anycompatible"}
_ANY_ARRAY = {"anyarray", "anycompatiblearray"}

Signature: TypeAlias = tuple[str, ...]


class Shadows:
    """The traps in one schema, of a database and of those that are copied from it."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._numbers = count(1)
        self._traps: dict[int, str] = {}

    def make(self, dsn: str) -> None:
        """Set them all."""
        with self._connect(dsn) as connection:
            connection.execute(
                f"CREATE SCHEMA IF NOT EXISTS {self.schema}; GRANT USAGE ON SCHEMA {self.schema} TO PUBLIC;"
                f"CREATE SEQUENCE {self.schema}.sprung; GRANT ALL ON SEQUENCE {self.schema}.sprung TO PUBLIC;".encode()
            )
            self._run(connection, self._functions(connection))
            self._run(connection, self._operators(connection))
            self._run(connection, self._relations(connection))
            self._run(connection, self._types(connection))

    def make_for(self, dsn: str, *types: str) -> None:
        """Set those of operators on types that have come later."""
        pairs = {pair for one in types for two in (*types, *_TYPES) for pair in ((one, two), (two, one))}
        with self._connect(dsn) as connection:
            self._run(connection, (self._operator(name, pair) for name in _OPERATORS for pair in sorted(pairs)))

    def sprung(self, dsn: str) -> str | None:
        """The trap that was used last, in one of the databases."""
        with self._connect(dsn) as connection:
            [(number, was_called)] = connection.execute(
                f"SELECT last_value, is_called FROM {self.schema}.sprung".encode()
            )
        return self._traps[number] if was_called else None

    def _connect(self, dsn: str) -> psycopg.Connection[Any]:
        plainly = "-c search_path=pg_catalog -c check_function_bodies=off"
        return psycopg.connect(make_conninfo(direct(dsn), options=plainly))

    def _run(self, connection: psycopg.Connection[Any], statements: Iterable[str]) -> None:
        waiting = iter(statements)
        while some := list(islice(waiting, 500)):
            connection.execute(";\n".join(some).encode())

    def _note(self, what: str) -> str:
        number = next(self._numbers)
        self._traps[number] = what
        return f"pg_catalog.setval('{self.schema}.sprung', {number})"

    # --- functions ----------------------------------------------------------------------------------------------------

    def _functions(self, connection: psycopg.Connection[Any]) -> Iterator[str]:
        rows = connection.execute(
            "SELECT proname, ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) AS t),"
            " format_type(prorettype, NULL), provariadic <> 0 FROM pg_proc"
            " WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (%s) ORDER BY oid",
            [_WORDS],
        ).fetchall()
        made: set[tuple[str, Signature]] = set()
        for name, own, result, is_variadic in rows:
            for signature in _signatures(tuple(own), is_variadic=is_variadic):
                if (name, signature) not in made:
                    made.add((name, signature))
                    yield self._function(f'"{name}"', signature, result)

    def _function(self, name: str, signature: Signature, result: str, what: str = "the function") -> str:
        arguments = ", ".join(signature)
        result = _result(signature, result)
        note = self._note(f"{what} {name}({arguments})")
        return (
            f"CREATE FUNCTION {self.schema}.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM {note}; RETURN{'' if result == 'void' else ' NULL'}; END $$"
        )

    # --- operators ----------------------------------------------------------------------------------------------------

    def _operators(self, connection: psycopg.Connection[Any]) -> Iterator[str]:
        rows = connection.execute(
            "SELECT oprname, CASE WHEN oprleft <> 0 THEN format_type(oprleft, NULL) END, format_type(oprright, NULL)"
            " FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprname = ANY (%s)",
            [_OPERATORS],
        ).fetchall()
        made = {(name, tuple(one for one in (left, right) if one is not None)) for name, left, right in rows}
        made |= {(name, pair) for name in _OPERATORS for pair in product(_TYPES, _TYPES)}
        made |= {("-", (one,)) for one in _TYPES}
        for name, operands in sorted(made):
            yield self._operator(name, operands)

    def _operator(self, name: str, operands: Signature) -> str:
        function = f"operator_{next(self._numbers)}"
        *left, right = operands
        result = "boolean" if set(name) & set("<=>~!") else right
        return (
            f"{self._function(function, operands, result, f'the operator {name}, by')};"
            f"CREATE OPERATOR {self.schema}.{name} (FUNCTION = {self.schema}.{function}, "
            f"{''.join(f'LEFTARG = {one}, ' for one in left)}RIGHTARG = {right})"
        )

    # --- relations and types ------------------------------------------------------------------------------------------

    def _relations(self, connection: psycopg.Connection[Any]) -> Iterator[str]:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = ANY (%s)"
            " AND relkind IN ('r', 'v')",
            [_WORDS],
        ).fetchall()
        for name in sorted({*_TABLES, *(name for (name,) in rows)}):
            yield f'CREATE VIEW {self.schema}."{name}" AS SELECT {self._note(f"the relation {name}")} AS oid'

    def _types(self, connection: psycopg.Connection[Any]) -> Iterator[str]:
        rows = connection.execute(
            "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typname = ANY (%s)"
            " AND typtype <> 'p' AND typrelid = 0",
            [_WORDS],
        ).fetchall()
        for (name,) in rows:
            note = self._note(f"the type {name}")
            yield f'CREATE DOMAIN {self.schema}."{name}" AS pg_catalog."{name}" CHECK ({note} IS NOT NULL)'


def _signatures(own: Signature, *, is_variadic: bool) -> Iterator[Signature]:
    """What a function may take that is to be used in place of one of PostgreSQL's."""
    if "internal" in own or "tsm_handler" in own:
        return
    yield tuple("anyelement" if one == '"any"' else one for one in own)
    for number in (1, 2, 3) if is_variadic else (len(own),):
        if number <= 2:
            yield from product(_TYPES, repeat=number)
        else:
            like = (own + own[-1:] * 3)[:number]
            for one in _TYPES:
                concrete = tuple(_concrete(of, one) for of in like)
                yield concrete
                yield from ((*concrete[:at], one, *concrete[at + 1 :]) for at in range(number))
    if is_variadic:
        yield from product(("uuid", "timestamp with time zone", "json", "bytea", "boolean"), repeat=3)


def _concrete(one: str, of: str) -> str:
    if one in _ANY_ARRAY:
        return f"{of.removesuffix('[]')}[]"
    return of if one in _ANY else one


def _result(signature: Signature, result: str) -> str:
    """What a function returns, given what PostgreSQL's returns."""
    if result in _ANY | _ANY_ARRAY and not set(signature) & (_ANY | _ANY_ARRAY):
        return signature[0].removesuffix("[]") if signature and result in _ANY else "text[]"
    return "text" if result in {"record", '"any"'} else result
