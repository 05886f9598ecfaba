"""The names that httpcore gives to the steps of a request, for those who follow one by httpx2's extension `trace`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requeuest_trio._model.job import Reached

__all__ = ["EVENTS", "reached_by"]

EVENTS: Final[Mapping[Reached, str]] = {
    Reached.RESOLVE: "connection.resolve.started",
    Reached.CONNECT: "connection.connect_tcp.started",
    Reached.TLS: "connection.start_tls.started",
    Reached.SENT: "http11.send_request_headers.started",
    Reached.RESPONSE: "http11.receive_response_headers.complete",
}
"""What is told when a step begins; of the last, when it is over."""

# Whichever part reports it: a proxy or HTTP/2 has a part of its own.
_STEPS: Final[Mapping[str, Reached]] = {
    **{event.partition(".")[2]: reached for reached, event in EVENTS.items()},
    "connect_unix_socket.started": Reached.CONNECT,
}


def reached_by(event: str) -> Reached:
    """How far a request has come when this event is told: `<part>.<step>.<started, complete or failed>`."""
    return _STEPS.get(event.partition(".")[2], Reached.RESOLVE)
