"""
What the table of lost commits is made of.

A *place* is one at which the library commits something. It comes with what it does there, and with what is to become
of its jobs if the commit never reaches the server, and if the server carries it out and nobody hears of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from requeuest_trio import Client, DatabaseUnavailable, Request, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.postgres_messages import Loss, committing
from tests.proxy import Proxy, open_proxy
from tests.waiting import until

NEVER = 600.0
"""A poll interval that shows that nobody has to wait for the poll."""
CHANNEL = "a"
PATIENCE = 60.0

Lost = Literal["request", "reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Became:
    """What is to become of the jobs of a place, each of them."""

    jobs: int = 1
    """How many are stored in the end. All of them are delivered."""
    arrivals: int = 1
    attempts: int = 1
    fails: bool = False
    """Whether the caller is told, by `DatabaseUnavailable`. Then it asks again."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the table."""

    commits: tuple[str, ...]
    """The statements that are committed there together."""
    act: Callable[[Scene], Awaitable[None]]
    became: dict[Lost, Became]


PLACES: dict[str, Place] = {}
"""The table, in the words of its functions' names."""


def place(
    *commits: str, unsent: Became, unheard: Became
) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[Scene], Awaitable[None]]]:
    """A line of the table: what becomes of the jobs if the commit was not sent, and if its answer was not heard."""

    def entered(act: Callable[[Scene], Awaitable[None]]) -> Callable[[Scene], Awaitable[None]]:
        name = act.__name__.replace("_", " ")
        assert name not in PLACES
        PLACES[name] = Place(commits, act, {"request": unsent, "reply": unheard})
        return act

    return entered


class Scene:
    """A database, a receiver, and a network between that and the library."""

    def __init__(
        self, probe: QueueProbe, receiver: Receiver, proxy: Proxy, log: Log, commits: tuple[str, ...], lost: Lost
    ):
        self.probe = probe
        self.receiver = receiver
        self.proxy = proxy
        self.log = log
        self.lost = lost
        self.request = Request.get(receiver.url)
        self.has_failed = False
        self.loss: Loss | None = None
        self._commits = commits

    def lose(self) -> Loss:
        """From here on, the next commit of the place is lost."""
        drop = self.proxy.drop_next_request if self.lost == "request" else self.proxy.drop_next_reply
        self.loss = drop(committing(*self._commits))
        return self.loss

    async def until_lost(self) -> None:
        assert self.loss is not None
        await self.loss.happened.wait()

    @contextmanager
    def may_fail(self) -> Iterator[None]:
        """The caller may be told of it here."""
        try:
            yield
        except DatabaseUnavailable:
            self.has_failed = True

    def open(self, channels: Any = (CHANNEL,), **options: Any) -> AbstractAsyncContextManager[Client]:
        """The library, over the network that fails."""
        return open_requeuest(self.proxy.dsn, channels, **{"poll_interval": NEVER, **options})

    def elsewhere(self, channels: Any = (CHANNEL,), **options: Any) -> AbstractAsyncContextManager[Client]:
        """The library in another process, as far as it can tell, with a network that is in order."""
        return open_requeuest(self.probe.dsn, channels, **{"poll_interval": NEVER, **options})

    async def until_sent(self, statement: str, number: int = 1) -> None:
        """Wait until a statement has been sent so many times since the beginning."""
        await until(lambda: self.proxy.executed.count(statement) >= number)

    async def until_delivered(self, number: int = 1) -> None:
        await self.probe.until_true(
            "select count(*) = %s and bool_and(state = 'succeeded') from requeuest.job where channel = %s",
            number,
            CHANNEL,
            patience=PATIENCE,
        )

    async def must_have_become(self, became: Became) -> None:
        """The commit was lost, and what was to become of the jobs has become of them."""
        assert self.loss is not None
        assert self.loss.happened.is_set(), f"it was never sent: {self.proxy.executed[-20:]}"
        assert self.has_failed is became.fails
        jobs: list[tuple[UUID, str, int]] = await self.probe.rows(
            "select id, state::text, attempts from requeuest.job where channel = %s", CHANNEL
        )
        assert len(jobs) == became.jobs, jobs
        assert {(state, attempts) for _, state, attempts in jobs} <= {("succeeded", became.attempts)}, jobs
        arrivals = Counter(arrival.header("idempotency-key") for arrival in self.receiver.arrivals)
        for job_id, _, attempts in jobs:
            assert arrivals[str(job_id)] == became.arrivals
            rows = await self.probe.rows("select number from requeuest.attempt where job_id = %s order by 1", job_id)
            assert [number for (number,) in rows] == [*range(1, attempts + 1)]
        orphans = (
            "select count(*) from requeuest.attempt where not exists (select from requeuest.job where id = job_id)"
        )
        assert await self.probe.value(orphans) == 0
        assert await self.probe.value("select count(*) from requeuest.worker") == 0


@asynccontextmanager
async def scene_of(place: Place, lost: Lost, probe: QueueProbe, receiver: Receiver, log: Log) -> AsyncIterator[Scene]:
    async with nothing_left(probe), open_proxy(probe.dsn) as proxy:
        yield Scene(probe, receiver, proxy, log, place.commits, lost)
