"""Everything that the library raises, in one tree.

::

    Exception
    +-- RequeuestError
        +-- InvalidRequest        (also a ValueError)
        +-- SchemaMismatch
        +-- DatabaseUnavailable
        +-- JobNotFound
        +-- JobDead
        +-- JobCancelled

A failed delivery raises nothing: it is data, an `Attempt`. `trio.ClosedResourceError` is raised by a client whose
block has ended, `trio.Cancelled` by every call that waits. All of them can be copied and pickled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from requeuest_trio._model.escaping import cut, escaped

if TYPE_CHECKING:
    from requeuest_trio._model.job import Job

__all__ = [
    "DatabaseUnavailable",
    "InvalidRequest",
    "JobCancelled",
    "JobDead",
    "JobNotFound",
    "RequeuestError",
    "SchemaMismatch",
    "first_line",
    "kind_of",
    "shown",
]

_SHOWN = 200
_LONGEST_PROBLEM = 1_000
"""Whatever was quoted in it, an error is a sentence or two."""


class RequeuestError(Exception):
    """What all errors of this library have in common; also raised itself, for wrong surroundings."""

    def __str__(self) -> str:
        """In one line that steers no terminal, whatever names and texts of others are in it."""
        return escaped(self._text())

    def _text(self) -> str:
        return super().__str__()


class InvalidRequest(RequeuestError, ValueError):
    """An argument was refused before anything was stored. The text names the argument, the problem and the limit."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, cut(problem, _LONGEST_PROBLEM))
        self.argument = argument

    def _text(self) -> str:
        return ": ".join(self.args)


class SchemaMismatch(RequeuestError):
    """The tables in the database are missing, older or newer than this library; the text has the command to run."""


class DatabaseUnavailable(RequeuestError):
    """PostgreSQL could not be reached, or did not answer in time. Try again later.

    If it comes out of `spawn` or `spawn_many`, the commit may have happened and only its answer been lost.
    `job_ids` has the ids that were to be stored: repeating the call with `job_id=` stores each at most once.
    """

    def __init__(self, message: str, *, job_ids: tuple[UUID, ...] = ()) -> None:
        super().__init__(message)
        self.job_ids = job_ids


class JobNotFound(RequeuestError):
    """No job has this id: it never had one, or the job was cleared or pruned."""

    def __init__(self, job_id: UUID) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def _text(self) -> str:
        return f"no job has the id {self.job_id}: it was never stored, or has been cleared or pruned"


class _JobEnded(RequeuestError):
    """A job was finished without a response; `job` is what is known of it."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.job = job


class JobDead(_JobEnded):
    """The queue gave this job up; `job` has the last status and error, `Client.attempts` every attempt."""

    def _text(self) -> str:
        return f"job {self.job.id} is dead after {self.job.attempts} attempt(s): {self.job.error}"


class JobCancelled(_JobEnded):
    """This job was cancelled before it was delivered; `job` has what is known of it."""

    def _text(self) -> str:
        return f"job {self.job.id} was cancelled"


def first_line(error: BaseException) -> str:
    """What an error says, without the details: PostgreSQL's may show a whole row with all that is secret in it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def kind_of(value: object) -> str:
    """The type of a refused argument, as its user would call it: `None`, `str`, `Request`, `httpx2.Request`."""
    kind = type(value)
    if value is None or kind.__module__ == "builtins" or kind.__module__.startswith("requeuest_trio."):
        return "None" if value is None else kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def shown(value: object) -> str:
    """`repr(value)`, cut short, for the text of an error: a refused argument may be huge, or have no `repr` at all."""
    try:
        text = repr(value[:_SHOWN] if isinstance(value, str | bytes) else value)
    except Exception:  # such as an int of more digits than Python writes
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
