"""Logs that survive their writers: one line of JSON for each event, each written at once.

Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any


class Journal:
    """A log that is only added to. A line is written with one call, so a kill comes before it or after it."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "at": time.monotonic(), **fields}, default=str)
        os.write(self._file, line.encode() + b"\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All events so far; none, if the log was not begun."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    # What stands after the last line break is not whole yet.
    return [json.loads(line) for line in lines[:-1]]


class EventLog(logging.Handler):
    """Writes the library's events into the journal, with their fields."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.DEBUG)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None) or record.getMessage()
        self._journal.write(event, level=record.levelname, fields=getattr(record, "fields", {}))


def log_events(journal: Journal, level: str = "INFO") -> None:
    """From now on, what the library logs in this process stands in a journal; and so does what its driver logs."""
    for name in ("requeuest_trio", "psycopg"):
        logger = logging.getLogger(name)
        logger.addHandler(EventLog(journal))
        logger.setLevel(level)
