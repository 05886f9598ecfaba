"""Stopping a command: the first signal lets it finish what is under way, the second ends it at once."""

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

__all__ = ["Stop", "stopping_on_signals"]

_AT_ONCE = "stopping at once; what is unfinished goes back to the queue"


class Stop:
    """What the signals do, and have done."""

    def __init__(self, everything: trio.CancelScope, say: Callable[[str], None]) -> None:
        self._everything = everything
        self._say = say
        self._graceful: trio.CancelScope | None = None
        self._farewell = ""
        self._at_signal: Callable[[], None] = lambda: None
        self.received: signal.Signals | None = None
        """The last signal that came."""
        self.signals: int = 0
        """How many came."""

    @property
    def exit_status(self) -> int:
        """For a command that could not do all it was asked to; as shells have it."""
        return 0 if self.received is None else 128 + self.received

    @contextmanager
    def gracefully(self, farewell: str, at_signal: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Let the first signal end this block and no more. Without such a block it ends everything.

        Args:
            farewell: what to say then.
            at_signal: what to do then, at once.
        """
        with trio.CancelScope() as scope:
            self._graceful, self._farewell, self._at_signal = scope, farewell, at_signal
            try:
                yield
            finally:
                self._graceful = None

    async def watch(self, signals: AsyncIterator[int]) -> None:
        """Act on each signal as it comes."""
        async for number in signals:
            self.received = signal.Signals(number)
            self.signals += 1
            if self._graceful is not None and not self._graceful.cancel_called:
                self._at_signal()
                self._say(f"{self.received.name}: {self._farewell}; once more to stop at once")
                self._graceful.cancel()
            else:
                self._say(f"{self.received.name}: {_AT_ONCE if self.signals > 1 else 'stopping'}")
                self._everything.cancel()


@asynccontextmanager
async def stopping_on_signals(say: Callable[[str], None]) -> AsyncIterator[Stop]:
    """Let SIGINT, SIGTERM and SIGHUP stop what runs in the block, which then ends without an exception.

    A SIGINT or SIGHUP that was ignored before still is: shells see to the one in what a script starts with &, so that
    Ctrl-C is for the script alone, and nohup to the other.
    """
    of_terminals = (signal.SIGINT, signal.SIGHUP)
    heeded = [signal.SIGTERM, *(each for each in of_terminals if signal.getsignal(each) is not signal.SIG_IGN)]
    with trio.open_signal_receiver(*heeded) as signals:
        async with trio.open_nursery() as nursery:
            stop = Stop(nursery.cancel_scope, say)
            nursery.start_soon(stop.watch, signals)
            yield stop
            nursery.cancel_scope.cancel()
