"""What the role of a connection may not do, or see, found out when a queue is opened, and told with the remedy."""

from __future__ import annotations

from itertools import groupby

from requeuest_trio._model.errors import RequeuestError
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.queries import Queries

__all__ = ["check_rights", "quoted"]


async def check_rights(connection: TrioConnection, queries: Queries, *, delivers: bool, sets: bool) -> None:
    """Raise `RequeuestError` if the role lacks a right, or if row-level security hides rows of the queue from it.

    To deliver takes rights on every table, and to set a channel some more. Who only enqueues, or only looks, may have
    as few as he needs: what he then asks for in vain, he is told of.
    """
    needs = {"schema": queries.schema, "delivers": delivers, "sets": sets}
    cursor = await connection.execute(queries["missing_rights"], needs)
    rows = await cursor.fetchall()
    if not rows:
        return
    problems, remedies = [], []
    for (role, kind, thing), group in groupby(rows, key=lambda row: row[:3]):
        rights = ", ".join(privilege for *_, privilege in group)
        if kind == "POLICY":
            problems.append(f"row-level security hides rows of {thing} from the role {role}")
            remedies.append(f"ALTER TABLE {thing} DISABLE ROW LEVEL SECURITY;")
        else:
            problems.append(f"the role {role} lacks {rights} on {kind.lower()} {thing}")
            remedies.append(f"GRANT {rights} ON {kind} {thing} TO {quoted(role)};")
    raise RequeuestError(f"{'; '.join(problems)}. Remedy: {' '.join(remedies)}")


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'
