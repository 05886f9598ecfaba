"""The request that everybody sends: a POST of a JSON body with two headers, to a path of its own."""

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

HEADERS = {"Content-Type": "application/json", "X-Tenant": "benchmark"}
SMALL_BODY = 200
"""Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One request, and where in a queue it belongs."""

    url: str
    body: bytes
    channel: str
    ordering_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How many requests, to whom, and of what kind. It travels to the programs as JSON."""

    url: str
    jobs: int
    body_bytes: int = SMALL_BODY
    channels: int = 1
    ordering_keys: int = 0

    def messages(self) -> Iterator[Message]:
        """All of them; neighbours have different channels and keys, if there are several."""
        content = body(self.body_bytes)
        for number in range(self.jobs):
            yield Message(
                url=f"{self.url}/{number}",
                body=content,
                channel=channel_name(number % self.channels),
                ordering_key=f"key {number % self.ordering_keys}" if self.ordering_keys else None,
            )


def channel_name(number: int) -> str:
    """The name of a channel of the workload."""
    return f"bench{number}"


def body(size: int) -> bytes:
    """A JSON document of so many bytes that PostgreSQL cannot compress away."""
    frame = len(json.dumps({"data": ""}))
    noise = random.Random(7).randbytes(size)  # noqa: S311 - the same bytes each time
    return json.dumps({"data": base64.b64encode(noise).decode()[: size - frame]}).encode()
