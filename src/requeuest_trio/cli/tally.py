"""What has come of the requests of one `send` or `demo`, as far as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from requeuest_trio import JobState
from requeuest_trio.cli.request_file import Entry

__all__ = ["ChannelCount", "Outcome", "Stored", "Tally"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A line of the file, and the job it has become."""

    entry: Entry
    job_id: UUID


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a job."""

    stored: Stored
    state: JobState | None
    """None: it was removed before it could be read."""
    attempts: int = 0
    seconds: float = 0.0
    """From being stored to the end, by the database's clock."""
    status: int | None = None
    error: str | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has accepted it."""
        return self.state is JobState.SUCCEEDED


@dataclass(slots=True)
class ChannelCount:
    """The requests of one channel."""

    total: int = 0
    delivered: int = 0
    given_up: int = 0
    failures: int = 0
    """Attempts that failed and are followed by another."""

    def __add__(self, other: ChannelCount) -> ChannelCount:
        return ChannelCount(
            self.total + other.total,
            self.delivered + other.delivered,
            self.given_up + other.given_up,
            self.failures + other.failures,
        )


@dataclass(slots=True)
class Tally:
    """The count, which grows while the requests are followed."""

    stored: Sequence[Stored]
    finished: list[Outcome] = field(default_factory=list)
    left: list[Outcome] = field(default_factory=list)
    """Those that were read after this process had stopped, and stay in the queue."""
    channels: dict[str, ChannelCount] = field(default_factory=dict)
    last_failure: str | None = None
    _lines: dict[UUID, Entry] = field(default_factory=dict)
    _delivered: dict[UUID, bool] = field(default_factory=dict)
    """Of each job that is known to have ended, whether it was delivered."""

    def __post_init__(self) -> None:
        for stored in self.stored:
            self._lines[stored.job_id] = stored.entry
            self.channels.setdefault(stored.entry.channel, ChannelCount()).total += 1

    @property
    def overall(self) -> ChannelCount:
        """All channels together."""
        return sum(self.channels.values(), ChannelCount())

    @property
    def unfinished(self) -> list[Stored]:
        """Those that the database has not been heard to have finished."""
        finished = {one.stored.job_id for one in self.finished}
        return [one for one in self.stored if one.job_id not in finished]

    def add(self, finished: Outcome) -> None:
        """Count a job that has ended, as the database has it."""
        self.finished.append(finished)
        self._count(finished.stored.job_id, is_delivered=finished.is_delivered)

    def _count(self, job_id: UUID, *, is_delivered: bool) -> None:
        count = self.channels[self._lines[job_id].channel]
        # What was seen of the attempt comes first and may be wrong: its outcome can come too late to be recorded.
        before = self._delivered.get(job_id)
        self._delivered[job_id] = is_delivered
        count.delivered += is_delivered - (before is True)
        count.given_up += (not is_delivered) - (before is False)

    def saw_attempt(self, job_id: UUID, state: JobState, error: str | None) -> None:
        """Take note of an attempt that has ended."""
        entry = self._lines.get(job_id)
        if entry is None:
            return  # a job that waited in the same channel
        if state is JobState.AVAILABLE:
            self.channels[entry.channel].failures += 1
        else:
            self._count(job_id, is_delivered=state is JobState.SUCCEEDED)
        if error is not None:
            self.last_failure = f"line {entry.line}: {error}"
