"""Running a command under Trio: every error that has a reason becomes one line and an exit status."""

import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import psycopg
import trio

from requeuest_trio import RequeuestError
from requeuest_trio.cli.display import one_line
from requeuest_trio.cli.streams import Unwritten

__all__ = ["FAILED", "FINE", "IMPOSSIBLE", "INTERRUPTED", "leaves", "run"]

FINE = 0
FAILED = 1
"""Something was given up, or not delivered as it should be."""
IMPOSSIBLE = 2
"""It could not be done; also what click uses for wrong arguments."""
INTERRUPTED = 130
"""Ctrl-C, as shells have it."""


def run(main: Callable[[], Awaitable[int]]) -> NoReturn:
    """Run `main` under Trio, and leave the process with the status that it returns.

    The library's errors, and PostgreSQL's own, end it with one line on standard error and without a traceback. Anything
    else is a bug, and its traceback is wanted.
    """
    status = IMPOSSIBLE
    try:
        status = trio.run(main)
        sys.stdout.flush()
    except* (RequeuestError, psycopg.Error) as group:
        for error in leaves(group):
            print(f"requeuest: {one_line(str(error) or type(error).__name__)}", file=sys.stderr)
    except* KeyboardInterrupt:
        status = INTERRUPTED
    except* Unwritten as group:
        for unwritten in (error for error in leaves(group) if isinstance(error, Unwritten)):
            unwritten.tell()
            status = unwritten.status
    sys.exit(status)


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions in a group, and in its groups."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
