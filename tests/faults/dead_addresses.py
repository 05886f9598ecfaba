"""
A worker in a process of its own, with a healthy channel beside one to a name with many dead addresses.

It counts its descriptors all the time.
"""

import os
import resource
import socket
from typing import Any

import trio

from requeuest_trio import Client, Config, Request, RetryPolicy, open_requeuest
from tests.faults.program import hear, say

HOST = "dead.example"
AGAIN = RetryPolicy(initial=0.05, max_backoff=0.1)


class Descriptors:
    """How many are open, and the most that were."""

    def __init__(self) -> None:
        self.most = 0

    def look(self) -> int:
        number = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - without the one of the directory itself
        self.most = max(self.most, number)
        return number

    async def watch(self) -> None:
        while True:
            self.look()
            await trio.sleep(0.002)


def resolve_to(hosts: list[str]) -> None:
    """From here on, the name has these addresses."""
    real = socket.getaddrinfo

    def getaddrinfo(name: str, *args: Any, **options: Any) -> Any:
        if name != HOST:
            return real(name, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in hosts]

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]  # only with the arguments that are used here


async def deliver(client: Client, url: str, *, number: int, rate: float) -> list[float]:
    """Healthy jobs at a steady rate; how long each took, from when it was due until its outcome was known."""
    took: list[float] = []

    async def one(due: float) -> None:
        await client.result(await client.spawn("healthy", Request.get(url)))
        took.append(trio.current_time() - due)

    due = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(number):
            await trio.sleep_until(due)
            nursery.start_soon(one, due)
            due += 1 / rate
    return sorted(took)


async def main(settings: dict[str, Any]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (settings["descriptors"], hard))
    resolve_to(settings["hosts"])
    url, attempts = settings["url"], settings["attempts"]
    dead = Request.get(f"http://{HOST}:{settings['port']}/")
    config, descriptors = Config(attempt_timeout=settings["timeout"]), Descriptors()
    async with open_requeuest(settings["dsn"], config=config, concurrency=attempts, grace=0) as client:
        await deliver(client, url, number=1, rate=1.0)
        before = descriptors.look()
        await client.spawn_many("dead", [dead] * attempts, retry=AGAIN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(descriptors.watch)
            took = await deliver(client, url, number=settings["healthy"], rate=settings["rate"])
            nursery.cancel_scope.cancel()
        say("delivered", before=before, most=descriptors.most, slowest=took[-1], number=len(took))
    await hear()
