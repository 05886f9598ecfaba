"""Letting an exception out of a nursery as it was raised."""

from __future__ import annotations

from typing import NoReturn

import trio

__all__ = ["raise_bare"]


def raise_bare(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise what a nursery has collected: a lone exception as it was raised, several as the group.

    A `Cancelled` beside a real error says nothing more than the error does, and is left out.
    """
    errors = [error for error in group.exceptions if not isinstance(error, trio.Cancelled)] or group.exceptions
    if len(errors) > 1:
        raise group
    [error] = errors
    context = error.__context__
    try:
        raise error
    finally:
        # `raise` has put the group there; the reader wants what the user's code had.
        error.__context__ = context
