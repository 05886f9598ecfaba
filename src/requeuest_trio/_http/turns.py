"""Who of all that reads long or costly answers in one event loop has the next step, and how much of the processor."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio
from trio.lowlevel import RunVar

from requeuest_trio._real_time import is_mocked

__all__ = ["Turns"]

_FREE: Final = 0.001
"""Seconds of the processor's time that each answer has before it is costly: a megabyte of an honest body takes less."""
_COSTLY_PART: Final = 5
"""Costly answers have a fifth of the processor, all together."""
_AHEAD: Final = 0.004
"""Seconds of pauses that may be owed: no sleep is as short as what a single step costs."""

_T = TypeVar("_T")


class _Gate:
    """Lets one task through at a time: channels in turn, and within a channel who came first."""

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[str | None, trio.lowlevel.ParkingLot] = {}

    @asynccontextmanager
    async def passed(self, share: str | None) -> AsyncIterator[None]:
        """Through the gate for the length of the block. Always a checkpoint, so that each turn of the loop has one."""
        was_taken = self._is_taken
        if was_taken:
            await self._waiting.setdefault(share, trio.lowlevel.ParkingLot()).park()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._is_taken = True
        try:
            if not was_taken:
                await trio.lowlevel.cancel_shielded_checkpoint()
            yield
        finally:
            self._let_the_next_through()

    def _let_the_next_through(self) -> None:
        for share, lot in list(self._waiting.items()):
            del self._waiting[share]
            if len(lot) > 1:
                self._waiting[share] = lot  # behind the others
            if lot:
                lot.unpark()
                return
        self._is_taken = False


class _Account:
    """The costly answers of one origin to one channel, of which one at a time has a step, or waits for it."""

    __slots__ = ("free_at", "lock", "users")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0
        self.free_at = 0.0
        """When, by the monotonic clock, the pauses for all that was done are over."""


class _Costly:
    """A fifth of the processor: in equal parts for the channels that have such answers, and in each for its origins.

    So who makes many connections has no more than who makes one, and waits no shorter.
    """

    def __init__(self) -> None:
        self._accounts: dict[str | None, dict[Hashable, _Account]] = {}

    async def step(self, gate: _Gate, turns: Turns, work: Callable[[], _T], took: float) -> _T:
        """Do some work for an answer when its turn has come."""
        account = self._accounts.setdefault(turns.share, {}).setdefault(turns.origin, _Account())
        account.users += 1
        try:
            async with account.lock:
                if (pause := account.free_at - _AHEAD - time.monotonic()) > 0 and not is_mocked():
                    await trio.sleep(pause)
                async with gate.passed(turns.share):
                    before = turns.spent
                    try:
                        return turns.timed(work, took)
                    finally:
                        pauses = _COSTLY_PART * self._claimants(turns.share) - 1
                        began = max(account.free_at, time.monotonic())
                        account.free_at = began + (turns.spent - before) * pauses
        finally:
            account.users -= 1

    def _claimants(self, share: str | None) -> int:
        """Into how many parts the fifth goes, of which an origin of this channel has one."""
        now = time.monotonic()
        for name, accounts in list(self._accounts.items()):
            for origin, account in list(accounts.items()):
                if not account.users and account.free_at <= now:
                    del accounts[origin]
            if not accounts:
                del self._accounts[name]
        return len(self._accounts) * len(self._accounts[share])


class _Reading:
    """All that is read in one event loop."""

    def __init__(self) -> None:
        self.gate = _Gate()
        self.costly = _Costly()


_reading: Final[RunVar[_Reading]] = RunVar("answers that are read")


class Turns:
    """The steps in which one answer is read.

    The first is free. From the second on, in each turn of the event loop one of all answers has a step: a job waits for
    many turns until it is done, and in none of them must it wait for a step of every long answer.

    An answer that has used up what is free, or whose next step is known to be long, is costly. However many there are,
    they are read more slowly than that has cost: the rest of the processor is left to everybody else.

    Args:
        share: the channel, or None; see `Message.share`.
        origin: what the receiver is told apart by.
    """

    __slots__ = ("_has_begun", "origin", "share", "spent")

    def __init__(self, share: str | None, origin: Hashable) -> None:
        self.share = share
        self.origin = origin
        self._has_begun = False
        self.spent = 0.0
        """Seconds of the processor's time that the answer has had."""

    async def step(self, work: Callable[[], _T], *, took: float = 0.0, is_long: bool = False) -> _T:
        """Do some work for the answer, at once or when its turn has come; it has taken so many seconds already."""
        is_costly = is_long or self.spent + took > _FREE
        if not is_costly and not self._has_begun:
            self._has_begun = True
            return self.timed(work, took)
        reading = _reading_of_this_run()
        if is_costly:
            return await reading.costly.step(reading.gate, self, work, took)
        async with reading.gate.passed(self.share):
            return self.timed(work, took)

    def timed(self, work: Callable[[], _T], took: float) -> _T:
        """Do some work at once, and count it."""
        began = time.thread_time()
        try:
            return work()
        finally:
            self.spent += took + time.thread_time() - began


def _reading_of_this_run() -> _Reading:
    try:
        return _reading.get()
    except LookupError:
        reading = _Reading()
        _reading.set(reading)
        return reading
