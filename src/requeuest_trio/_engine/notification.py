"""What a notification says. Any role that may connect can send one, with whatever text in it.

So nothing is raised here, whatever comes, and what comes out is as large as the notification at most. What is not
written as the library writes it means: look at the database.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn
from uuid import UUID

from requeuest_trio._model import checks
from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio._store.waits import Waits

__all__ = ["finished_in", "waits_in"]


def waits_in(payload: str) -> Waits | None:
    """Which channels have something due, and in how many seconds; None: look at the database.

    A wait is a number from 0 on; of a channel there are one or two, and it is named once.
    """
    try:
        said = json.loads(payload, object_pairs_hook=_named_once, parse_int=float, parse_constant=_refused)
        return {checks.channel_name(channel): _checked_waits(waits) for channel, waits in said.items()} or None
    except (ValueError, TypeError, AttributeError, RecursionError, InvalidRequest):
        return None


def finished_in(payload: str) -> Sequence[UUID] | None:
    """Which jobs are finished; None: look at the database."""
    try:
        return [UUID(job_id) for job_id in payload.split(",")]
    except ValueError:
        return None


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        raise ValueError("a channel is named twice")
    return said


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no time")


def _checked_waits(said: object) -> list[float]:
    waits: list[Any] = said if isinstance(said, list) else [said]
    if not 1 <= len(waits) <= 2 or not all(isinstance(wait, float) and 0 <= wait < math.inf for wait in waits):
        raise ValueError("no waits")
    return waits
