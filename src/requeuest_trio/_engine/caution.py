"""How much a claim may take after one has failed of what it has read. Pure.

One row that PostgreSQL can't read, or not in time, fails the claim that it is in, and with it all other jobs of that
claim, again and again. So after such a failure jobs are claimed one by one, until as many have been as the claim asked
for; and one that fails alone, several times in a row, is the one.
"""

from __future__ import annotations

from uuid import UUID

__all__ = ["Caution"]

_FAILURES = 3
_SMALL = 65_536
"""Bytes. A smaller row is never to blame for the time that a claim takes."""


class Caution:
    """True from a claim that has failed of what it has read, to the last one that is small for its sake."""

    def __init__(self) -> None:
        self._left = 0
        self.accused: str | None = None
        """The channel of which a single job could not be claimed: find out which that is, and ask `is_guilty`."""
        self._was_time = False
        self._suspect: tuple[str, UUID] | None = None
        self._failures = 0

    def __bool__(self) -> bool:
        return self._left > 0

    def limited(self, wanted: dict[str, int]) -> dict[str, int]:
        """What one claim may ask for of so many jobs of channels."""
        return {next(iter(wanted)): 1} if wanted and self else wanted

    def failed(self, wanted: dict[str, int], *, was_time: bool) -> None:
        """A claim for so many has failed of what it has read; whether that took too much time."""
        jobs = sum(wanted.values())
        self._left = max(self._left, jobs)
        self.accused = next(iter(wanted)) if jobs == 1 else None
        self._was_time = was_time

    def passed(self, wanted: dict[str, int]) -> None:
        """A claim has not failed."""
        self._left = max(0, self._left - 1)
        if self._suspect is not None and self._suspect[0] in wanted:
            self._suspect = None

    def over(self) -> None:
        """Nothing is left of what was due when the claim failed."""
        self._left = 0

    def acquit(self) -> None:
        """No job is there that could have been meant."""
        self.accused = self._suspect = None

    def is_guilty(self, channel: str, job_id: UUID, size: int) -> bool:
        """Whether this job, which could not be claimed alone, is what the claims have failed of.

        Once only: whatever comes of it, it is innocent again.
        """
        suspect, self.accused = (channel, job_id), None
        if self._was_time and size < _SMALL:
            return False
        self._failures = self._failures + 1 if suspect == self._suspect else 1
        self._suspect = suspect if self._failures < _FAILURES else None
        return self._suspect is None
