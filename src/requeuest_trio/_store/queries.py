"""Reads sql/: the one place where run-time SQL stands, a file for each step of a job.

Each statement has a name and says what it is for. `{schema}` stands for the quoted schema. What several statements
share is a fragment, which has a name as well, and stands in them as `{name}`; lists of a job's columns are fragments
that `columns.py` makes.

Statements that change several rows lock them in the order of their ids; those that touch ordering keys run in a
transaction that has run `lock_keys` first.

`configure` sees to it that names are looked up in pg_catalog alone. What runs before it, or in a transaction of the
application's, which has a path of its own, leaves nothing to look up: functions, types and operators are qualified, but
for what the grammar itself knows, such as coalesce, extract and boolean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from operator import attrgetter

from requeuest_trio._model.errors import InvalidRequest, shown
from requeuest_trio._model.exact import exact_text
from requeuest_trio._postgres import Statement
from requeuest_trio._store.columns import lists

__all__ = ["Queries", "checked_schema", "parsed"]

_NAME = re.compile(r"^-- (name|fragment): (\w+)\n((?:--.*\n)*)", re.MULTILINE)
_FRAGMENT = re.compile(r"\{(\w+)\}")
_PLACEHOLDER = re.compile(rb"%\((\w+)\)s")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def checked_schema(schema: object) -> str:
    """A schema name that needs no second thought in SQL, in a topic or on a command line."""
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        raise InvalidRequest(
            "schema", f"must be 1 to 40 of a-z, 0-9 and _, not beginning with a digit: {shown(schema)}"
        )
    return exact_text(schema)


@cache
def parsed() -> dict[str, str]:
    """The statements, by name, with their fragments filled in."""
    texts: dict[str, dict[str, str]] = {"name": {}, "fragment": {}}
    for file in sorted((files(__package__) / "sql").iterdir(), key=attrgetter("name")):
        parts = _NAME.split(file.read_text("utf-8"))
        # split() gives: what stands before, then kind, name, comment and text of each in turn.
        for kind, name, text in zip(parts[1::4], parts[2::4], parts[4::4], strict=True):
            if name in texts[kind]:
                raise ValueError(f"two have the {kind} {name}")
            texts[kind][name] = text.strip()
    generated = lists(texts["fragment"])
    fragments = generated | {name: _filled(text, generated) for name, text in texts["fragment"].items()}
    return {name: _filled(statement, fragments) for name, statement in texts["name"].items()}


def _filled(text: str, fragments: Mapping[str, str]) -> str:
    return _FRAGMENT.sub(lambda found: fragments.get(found[1], found[0]), text)


class Queries:
    """The statements, by name, for one schema."""

    def __init__(self, schema: str) -> None:
        self.schema: str = checked_schema(schema)
        self._statements = {name: self.filled_in(statement) for name, statement in parsed().items()}
        self._numbered: dict[str, tuple[Statement, list[str]]] = {}

    def filled_in(self, text: str) -> bytes:
        """SQL with the schema's name, quoted, where it says `{schema}`."""
        return text.replace("{schema}", f'"{self.schema}"').encode()

    def __getitem__(self, name: str) -> bytes:
        return self._statements[name]

    def numbered(self, name: str) -> tuple[Statement, list[str]]:
        """A statement for parameters that come encoded, and their names in order."""
        if name not in self._numbered:
            self._numbered[name] = _with_numbers(self._statements[name])
        return self._numbered[name]


def _with_numbers(statement: bytes) -> tuple[Statement, list[str]]:
    names = list(dict.fromkeys(_PLACEHOLDER.findall(statement)))
    numbered = _PLACEHOLDER.sub(lambda found: b"$%d" % (names.index(found[1]) + 1), statement)
    return Statement(numbered.replace(b"%%", b"%"), len(names)), [name.decode() for name in names]
