"""Gives each event of one open queue to those that take events."""

from __future__ import annotations

from requeuest_trio._observe.event import Event
from requeuest_trio._observe.log import is_logged, log

__all__ = ["Emitter"]


class Emitter:
    """Where the parts of one open queue tell what happens in them."""

    def takes(self, kind: type[Event]) -> bool:
        """Whether an event of this kind would be seen. For what happens often, and should cost nothing if not."""
        return is_logged(kind)

    def emit(self, event: Event) -> None:
        """Tell of an event. Never blocks, and no checkpoint."""
        log(event)
