"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import click

__all__ = [
    "concurrency_option",
    "dsn_option",
    "json_option",
    "migrate_option",
    "schema_option",
    "sensitive_option",
]

_Commanding = TypeVar("_Commanding", bound=Callable[..., Any] | click.Command)


class _Option(Protocol):
    """Gives an option to a command, or to the function that becomes one."""

    def __call__(self, command: _Commanding, /) -> _Commanding: ...


def _in_lower_case(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


dsn_option: _Option = click.option(
    "--dsn",
    required=True,
    metavar="DSN",
    envvar="REQUEUEST_DSN",
    show_envvar=True,
    help="The database: postgresql://user@host/name or any libpq connection string, or embedded:/path for one of the "
    "library's own. Keep a password off the command line: in REQUEUEST_DSN, PGPASSWORD or ~/.pgpass.",
)

schema_option: _Option = click.option(
    "--schema", default="requeuest", show_default=True, metavar="NAME", help="The PostgreSQL schema of the queue."
)

migrate_option: _Option = click.option("--migrate", is_flag=True, help="Bring the queue's tables up to date first.")

concurrency_option: _Option = click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=32,
    show_default=True,
    metavar="N",
    help="Requests under way at once, for each channel.",
)

json_option: _Option = click.option(
    "--json", "as_json", is_flag=True, help="JSON on standard output, as described above."
)

sensitive_option: _Option = click.option(
    "--sensitive",
    multiple=True,
    metavar="NAME",
    envvar="REQUEUEST_SENSITIVE",
    show_envvar=True,
    callback=_in_lower_case,
    help="A header field or URL parameter, in any case, whose values are to be hidden beside those that look secret. "
    "Can be given several times; in the variable, spaces stand between the names.",
)
