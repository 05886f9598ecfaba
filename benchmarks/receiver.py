"""The receiver of all requests, a process of its own: nginx if it is there; one of ours for what nginx cannot do."""

import contextlib
import http.client
import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

from benchmarks.process import program

PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
"""Where nginx may be; an ordinary user's PATH often lacks the latter two."""


class Receiver:
    """A running receiver, seen from the conductor."""

    def __init__(self, port: int, kind: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.kind = kind
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def count(self) -> int:
        """How many requests have arrived since it was started."""
        return int(self._ask("/count"))

    def take_stamps(self) -> dict[int, int]:
        """When each request arrived, by its number; those without one are left out."""
        return {int(path): stamp for path, stamp in json.loads(self._ask("/stamps")).items() if path.isdigit()}

    def _ask(self, path: str) -> bytes:
        self._connection.request("GET", path)
        return self._connection.getresponse().read()


class Nginx(Receiver):
    """nginx, which counts our questions too."""

    _asked = 0

    def count(self) -> int:
        """How many requests have arrived since it was started."""
        self._asked += 1
        # The third number below "server accepts handled requests".
        numbers = re.search(rb"\s\d+ \d+ (\d+)\s", self._ask("/status"))
        assert numbers is not None
        return int(numbers[1]) - self._asked


@contextlib.contextmanager
def fastest_receiver() -> Iterator[Receiver]:
    """nginx where it is installed; otherwise ours."""
    path = shutil.which("nginx", path=PLACES)
    if path is None:
        with stamping_receiver() as receiver:
            yield receiver
    else:
        with program("nginx", program=path) as (_, said):
            yield Nginx(**_described(said))


@contextlib.contextmanager
def stamping_receiver() -> Iterator[Receiver]:
    """Ours, which notes when each request arrives."""
    with program("receiver") as (_, said):
        yield Receiver(**_described(said))


def _described(said: dict[str, Any]) -> dict[str, Any]:
    return {"port": said["port"], "kind": said["version"]}
