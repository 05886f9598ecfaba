"""Values for the tests of this room."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from requeuest_trio import Job, JobState, Request


def make_job(**changes: Any) -> Job:
    """A job, with everything that the test does not care about."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ordinary: dict[str, Any] = {
        "id": UUID(int=1),
        "channel": "mail",
        "state": JobState.AVAILABLE,
        "request": Request.get("http://h/"),
        "priority": 0,
        "ordering_key": None,
        "attempts": 0,
        "due_at": now,
        "created_at": now,
        "finished_at": None,
        "status": None,
        "response": None,
        "error": None,
    }
    return Job(**(ordinary | changes))
