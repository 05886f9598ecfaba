"""Showing a tally while it grows: bars on a terminal, now and then a line anywhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from requeuest_trio.cli.display import cut, one_line, say
from requeuest_trio.cli.tally import ChannelCount, Tally

__all__ = ["showing_progress"]

_FRAME_SECONDS = 0.1
_LINE_SECONDS = 1.0
_MOST_BARS = 12
"""Of more channels, only the total is shown."""
_LONGEST_FAILURE = 60


def showing_progress(tally: Tally, console: Console) -> AbstractAsyncContextManager[None]:
    """Show the tally for as long as the block lasts."""
    return _bars(tally, console) if console.is_terminal else _lines(tally, console)


@asynccontextmanager
async def _lines(tally: Tally, console: Console) -> AsyncIterator[None]:
    async def repeat() -> None:
        shown = None
        while True:
            if (line := _line(tally)) != shown:
                say(console, line)
                shown = line
            await trio.sleep(_LINE_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(repeat)
        yield
        nursery.cancel_scope.cancel()


def _line(tally: Tally) -> str:
    count = tally.overall
    line = f"{count.delivered} of {count.total} delivered{_trouble(count)}"
    return f"{line}; last failure: {one_line(tally.last_failure)}" if tally.last_failure else line


def _trouble(count: ChannelCount) -> str:
    given_up = f", given up: {count.given_up}" if count.given_up else ""
    return f"{given_up}, failed attempts: {count.failures}" if count.failures else given_up


@asynccontextmanager
async def _bars(tally: Tally, console: Console) -> AsyncIterator[None]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    # Refreshed by a task, not by rich's thread, so that it ends with the block.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        bars = _Bars(progress, tally)

        async def repeat() -> None:
            while True:
                bars.draw()
                await trio.sleep(_FRAME_SECONDS)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat)
            yield
            nursery.cancel_scope.cancel()


class _Bars:
    """A bar for each channel, and one for all of them."""

    def __init__(self, progress: Progress, tally: Tally) -> None:
        self._progress = progress
        self._tally = tally
        names = list(tally.channels) if 1 < len(tally.channels) <= _MOST_BARS else []
        self._channels: dict[str, TaskID] = {name: self._add(one_line(name)) for name in names}
        self._overall = self._add("delivered")

    def _add(self, description: str) -> TaskID:
        return self._progress.add_task(description, note="")

    def draw(self) -> None:
        """Bring the bars up to date."""
        for name, bar in self._channels.items():
            count = self._tally.channels[name]
            self._update(bar, count, _trouble(count).removeprefix(", "))
        failure = self._tally.last_failure
        note = f"last failure: {cut(one_line(failure), _LONGEST_FAILURE)}" if failure else ""
        self._update(self._overall, self._tally.overall, note)
        self._progress.refresh()

    def _update(self, bar: TaskID, count: ChannelCount, note: str) -> None:
        self._progress.update(bar, total=count.total, completed=count.delivered, note=note)
