"""A network of its own on this machine, behind a cable on which every packet can be lost. Only root can make one."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CLONE_NEWNET = 0x4000_0000
LOSE_EVERYTHING = """
table inet cut {
    chain incoming { type filter hook input priority 0; policy drop; }
    chain outgoing { type filter hook output priority 0; policy drop; }
}
"""


@dataclass(frozen=True, slots=True)
class Cable:
    """The way to that network."""

    name: str
    address: str
    """Of its end there."""

    def listen(self) -> socket.socket:
        """A listening socket there."""
        # A socket stays in the network in which it was made, and each thread may be in one of its own.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._listen).result()

    def _listen(self) -> socket.socket:
        with Path(f"/run/netns/{self.name}").open("rb") as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return socket.create_server((self.address, 0))

    def cut(self) -> None:
        """Lose every packet, in both directions, without a word to anybody."""
        _run("ip", "netns", "exec", self.name, "nft", "-f", "-", given=LOSE_EVERYTHING)

    def mend(self) -> None:
        _run("ip", "netns", "exec", self.name, "nft", "delete", "table", "inet", "cut")


@contextmanager
def open_cable() -> Iterator[Cable]:
    """A network and the way to it, for as long as the block lasts; the test is skipped where that can't be had."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network of its own")
    if missing := [program for program in ("ip", "nft") if shutil.which(program) is None]:
        pytest.skip(f"{' and '.join(missing)} to be installed")
    pid = os.getpid()
    name = f"rq{pid}"
    here, there = f"{name}h", f"{name}t"
    # Of 198.18.0.0/15, which is for tests between networks, one of 32,768 pairs.
    ours, theirs = (f"198.{18 + pid // 16_384 % 2}.{pid // 64 % 256}.{pid % 64 * 4 + number}" for number in (1, 2))
    try:
        _run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network of its own to be had here: {error.stderr}")
    try:
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        _run("ip", "address", "add", f"{ours}/30", "dev", here)
        _run("ip", "link", "set", here, "up")
        _run("ip", "-n", name, "address", "add", f"{theirs}/30", "dev", there)
        _run("ip", "-n", name, "link", "set", there, "up")
        yield Cable(name, theirs)
    finally:
        subprocess.run(["ip", "link", "delete", here], check=False, capture_output=True)
        _run("ip", "netns", "delete", name)


def _run(*command: str, given: str = "") -> None:
    subprocess.run(command, check=True, input=given, capture_output=True, text=True)
