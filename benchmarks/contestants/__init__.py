"""
The queues that are compared, each in a module of its own that describes itself as a `Contestant`.

A module is loaded by its name, so that one that is not installed does not matter to the others.
"""

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.workload import Message

NAMES = ("requeuest", "procrastinate", "pgqueuer")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker is run. It travels to the worker's process as JSON."""

    dsn: str
    concurrency: int
    client: str = "httpx2"
    """What peers send with: `httpx` or `httpx2`."""
    channels: int = 1
    """How many channels the workload has."""


class Producer(Protocol):
    """What puts requests into a queue."""

    async def add(self, message: Message) -> None:
        """Store one, durably."""

    async def add_all(self, messages: Sequence[Message]) -> None:
        """Store many, in the way that the queue recommends for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A queue, as the benchmark deals with it."""

    backend: str
    """Of anyio: `trio`, or `asyncio`, which then is uvloop."""
    packages: tuple[str, ...]
    """Whose versions matter."""
    settings: Mapping[str, str]
    """What it was run with, and why; for the results."""
    install: Callable[[str], Awaitable[object]]
    """Make the tables in the database of this DSN."""
    finished: str
    """A query for how many of `%(jobs)s` jobs are finished."""
    work: Callable[[WorkerOptions], Awaitable[None]]
    """Deliver until cancelled."""
    produce: Callable[[str, bool], AbstractAsyncContextManager[Producer]]
    """Open the database of this DSN for adding to it; true: in a process that also delivers."""

    @property
    def backend_options(self) -> dict[str, Any]:
        """For `anyio.run`."""
        return {} if self.backend == "trio" else {"use_uvloop": True}


def load(name: str) -> Contestant:
    """
    Find a contestant.

    Raises:
        ImportError: what it needs is not installed.
    """
    contestant = importlib.import_module(f"benchmarks.contestants.{name}_").CONTESTANT
    assert isinstance(contestant, Contestant)
    return contestant
