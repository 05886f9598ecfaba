"""The log, which has the events of every queue of this process.

Each room logs to a logger of its own, `requeuest_trio.<room>`. The message is the event's name followed by its fields,
and a record has them as attributes too (`record.event`, `record.fields`). Nothing is logged at INFO for each job.
"""

from __future__ import annotations

import logging
from functools import cache

from requeuest_trio._observe.event import Event

__all__ = ["is_logged", "log"]


def is_logged(kind: type[Event]) -> bool:
    """Whether the log takes events of this kind."""
    return _logger(kind.room).isEnabledFor(kind.level)


def log(event: Event) -> None:
    """Log an event, in one line."""
    logger = _logger(event.room)
    if logger.isEnabledFor(event.level):
        logger.log(event.level, "%s", event, extra={"event": event.name, "fields": event.fields()})


@cache
def _logger(room: str) -> logging.Logger:
    return logging.getLogger(f"requeuest_trio.{room}")
