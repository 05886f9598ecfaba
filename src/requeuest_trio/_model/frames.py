"""Tracebacks that give nothing away: what shows the locals of frames, as services for errors do, would show secrets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from traceback import clear_frames
from typing import ParamSpec, TypeVar

__all__ = ["without_locals", "without_locals_when_made"]

P = ParamSpec("P")
T = TypeVar("T")

_MOST_LINKS = 20


def without_locals(function: Callable[P, T]) -> Callable[P, T]:
    """A function whose arguments are in no frame's locals when it raises. The frames stay, and say where it was.

    What the caller was handling already is his, and stays as it is. Not for what is async: a frame that may go on must
    not be cleared.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        handled = sys.exception()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            # This frame is running, and is shown too.
            del args, kwargs
            for link in _links(error, handled):
                clear_frames(link.__traceback__)
                if isinstance(link, UnicodeEncodeError):
                    link.object, link.args = "", ()  # the whole text, and not only where it broke
            raise

    return called


def without_locals_when_made(made: type[T]) -> type[T]:
    """A class whose constructor is such a function, also if it was generated."""
    # A dataclass writes its own, so there is no `def` that a decorator could stand on.
    made.__init__ = without_locals(made.__init__)  # type: ignore[method-assign]
    return made


def _links(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    """The error, and all that it came from, but for what was handled before."""
    waiting, seen = [error], {id(handled)}
    while waiting and len(seen) < _MOST_LINKS:
        link = waiting.pop()
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [each for each in (link.__cause__, link.__context__) if each is not None]
