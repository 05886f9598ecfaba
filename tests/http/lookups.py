"""A resolver that hangs, fails or answers as a name's ending says."""

import socket
import threading
from collections import Counter
from typing import Any

import trio

FAILURES = {
    ".servfail": (socket.EAI_AGAIN, "Temporary failure in name resolution"),
    ".nxdomain": (socket.EAI_NONAME, "Name or service not known"),
}


class Lookups:
    """
    Names under `.slow` and `.late` hang; those under `.servfail` and `.nxdomain` fail; all others are this machine.

    Once they may end, those under `.slow` fail too.
    """

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.asked: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, *args: Any, **options: Any) -> Any:
        if options.get("flags") == socket.AI_NUMERICHOST:
            return self._real(host, *args, **options)
        with self._lock:
            self.asked[host] += 1
        for ending, failure in FAILURES.items():
            if host.removesuffix(".").endswith(ending):
                raise socket.gaierror(*failure)
        if not host.removesuffix(".").endswith((".slow", ".late")):
            return self._real("127.0.0.1", *args, **options)
        with self._lock:
            self.running[host] += 1
            self.most[host] = max(self.most[host], self.running[host])
        self.may_end.wait(30)
        with self._lock:
            self.running[host] -= 1
        if host.endswith(".late"):
            return self._real("127.0.0.1", *args, **options)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    async def until_running(self, number: int) -> None:
        with trio.fail_after(5):
            while self.running.total() != number:  # noqa: ASYNC110 - threads tell nobody
                await trio.sleep(0.001)
