"""What all cases share: the database server, the receiver, the sizes, and queues to put jobs into."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import anyio

from benchmarks.contestants import Contestant, load
from benchmarks.database import Database
from benchmarks.process import program
from benchmarks.receiver import Receiver, fastest_receiver
from benchmarks.server import Server, running_server
from benchmarks.sizes import Sizes
from benchmarks.workload import Workload

Figures = dict[str, float]
"""What one repetition of a case gave, by name; `figures` says what the names mean."""
FILLERS = 128
"""Tasks that fill a queue whose jobs cannot all be added in one call."""
FILL_CHUNK = 10_000
FILL_BYTES = 5_000_000
"""For one call; the rest goes into the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a case is given."""

    server: Server
    receiver: Receiver
    sizes: Sizes

    @contextlib.contextmanager
    def queue(self, contestant: str) -> Iterator[Database]:
        """A database of its own with the contestant's tables."""
        with self.server.database(f"of_{contestant}", lambda dsn: _install(load(contestant), dsn)) as database:
            yield database

    @contextlib.contextmanager
    def empty_database(self) -> Iterator[Database]:
        """A database of its own with nothing in it."""
        with self.server.database("of_nobody", lambda _: None) as database:
            yield database

    def fill(self, contestant: str, database: Database, workload: Workload) -> None:
        """Put a workload into a queue, and let the dust settle."""
        is_plain = workload.channels == 1 and not workload.ordering_keys
        chunk = max(1, min(FILL_CHUNK, FILL_BYTES // workload.body_bytes))
        with program(
            "producer",
            contestant=contestant,
            dsn=database.dsn,
            workload=asdict(workload),
            way="bulk" if is_plain else "at once",
            width=chunk if is_plain else FILLERS,
            warm_up=0,
            delivers=False,
        ) as (producer, _):
            producer.go()
            producer.answer()


def _install(contestant: Contestant, dsn: str) -> None:
    anyio.run(contestant.install, dsn, backend=contestant.backend, backend_options=contestant.backend_options)


@contextlib.contextmanager
def open_setting(sizes: Sizes) -> Iterator[Setting]:
    """Start everything; everything ends with the block."""
    with running_server() as server, fastest_receiver() as receiver:
        yield Setting(server=server, receiver=receiver, sizes=sizes)
