"""Letting an exception out of a nursery as it was raised."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Self

import trio

__all__ = ["Kept", "raise_bare"]


def raise_bare(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise what a nursery has collected: a lone exception as it was raised, several as a group.

    A `Cancelled` beside a real error says nothing more than the error does, and is left out; nothing but `Cancelled`
    comes out as one.
    """
    errors = [error for error in group.exceptions if not _is_cancellation(error)] or group.exceptions[:1]
    if len(errors) > 1:
        raise group if len(errors) == len(group.exceptions) else group.derive(errors)
    [error] = errors
    context = error.__context__
    try:
        raise error
    finally:
        # `raise` has put the group there; the reader wants what the user's code had.
        error.__context__ = context


class Kept(list[BaseException]):
    """Exceptions kept back until everything has ended. `with` keeps any but those that Trio has to see."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or _has_cancellation(error):
            return False
        self.append(error)
        return True


def _has_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[0] is not None
    return isinstance(error, trio.Cancelled)


def _is_cancellation(error: BaseException) -> bool:
    """Whether an exception is a cancellation and nothing else, alone or (out of a nursery within) as a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
