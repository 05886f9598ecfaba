"""The timeouts of httpx2: one for each kind of waiting, and none for all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, NamedTuple, Self

import trio

from requeuest_trio._model.ecosystem import ConnectTimeout, PoolTimeout, TransportError

__all__ = ["NO_TIMEOUTS", "Timeouts"]

_NO_LIMIT: Final = nullcontext()


class Timeouts(NamedTuple):
    """Seconds for each."""

    connect: float = math.inf
    read: float = math.inf
    write: float = math.inf
    pool: float = math.inf

    @classmethod
    def of(cls, given: Mapping[str, float | None] | None) -> Self:
        """What httpx2 gives its transports, where None is no limit."""
        return cls(**{name: value for name, value in (given or {}).items() if value is not None})

    def waiting_for_connection(self) -> AbstractContextManager[None]:
        """The limit while all connections are in use."""
        return _NO_LIMIT if self.pool == math.inf else _limited(self.pool, PoolTimeout("no connection became free"))

    def connecting(self) -> AbstractContextManager[None]:
        """The limit for name lookup, connecting and TLS together."""
        return _NO_LIMIT if self.connect == math.inf else _limited(self.connect, ConnectTimeout("no connection"))


NO_TIMEOUTS: Final = Timeouts()


@contextmanager
def _limited(seconds: float, error: TransportError) -> Iterator[None]:
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise type(error)(f"{error} within {seconds:g} s")
