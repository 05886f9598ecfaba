"""Gives each event of one open queue to those that take events: the log, and who subscribes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from requeuest_trio._observe.event import Event
from requeuest_trio._observe.log import is_logged, log
from requeuest_trio._observe.stream import EventStream

__all__ = ["Emitter"]


class Emitter:
    """Where the parts of one open queue tell what happens in them."""

    def __init__(self) -> None:
        self._streams: list[EventStream] = []

    def takes(self, kind: type[Event]) -> bool:
        """Whether an event of this kind would be seen. What happens for each job is made an event only then."""
        return bool(self._streams) or is_logged(kind)

    def emit(self, event: Event) -> None:
        """Tell of an event. No taker can make this wait."""
        log(event)
        for stream in self._streams:
            stream.put(event)

    @contextmanager
    def subscribed(self, require_owner: Callable[[], None]) -> Iterator[EventStream]:
        """What is emitted from now on, until the block ends. For `require_owner`, see `EventStream`."""
        stream = EventStream(require_owner)
        self._streams.append(stream)
        try:
            yield stream
        finally:
            self._streams.remove(stream)
            stream.close()

    def close(self) -> None:
        """The queue is closed: reading ends for all subscribers."""
        for stream in self._streams:
            stream.close()
