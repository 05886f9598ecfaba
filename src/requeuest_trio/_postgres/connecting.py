"""From connection parameters to a connection: hosts, their addresses, and one attempt after the other."""

from __future__ import annotations

import logging
import math
import random
import re
import socket
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import psycopg
import trio
from psycopg._conninfo_utils import get_param, get_param_def, is_ip_address, split_attempts
from psycopg.conninfo import make_conninfo

from requeuest_trio._model.escaping import cut
from requeuest_trio._postgres.waiting import run_connecting
from requeuest_trio._real_time import move_on_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import ConnDict, PQGenConn

__all__ = (
    "ELSEWHERE",
    "Address",
    "Addresses",
    "address_of",
    "connection_attempts",
    "first_to_connect",
    "is_of_server",
)

logger = logging.getLogger("requeuest_trio.postgres")

T = TypeVar("T")

Address: TypeAlias = tuple[str | None, ...]

_REMEMBERED_SECONDS = 60.0
_AT_ONCE_SECONDS = 0.1

ELSEWHERE = "; elsewhere: "
"""What stands in an error between the host that tells most and the others."""
_MOST_TOLD = 10
_LONGEST_TOLD = 200
_OF_SERVER = re.compile(r": \S+:  \S|: fe_sendauth: ")
"""libpq writes an error of a server with its severity and two spaces before it, and so none of its own; the last is of
a password that a server has asked for in vain."""


class Addresses:
    """
    Remembers which addresses have been of no use of late: what was waited for in vain is tried last, for a minute.

    Then the order is again that of the connection string, which has its reasons.
    """

    def __init__(self) -> None:
        self._failures: dict[Address, float] = {}

    def in_order(self, attempts: list[ConnDict]) -> list[ConnDict]:
        """Those that have not failed first, then those whose failure was longest ago."""
        self._forget()
        return sorted(attempts, key=lambda attempt: self._failures.get(address_of(attempt), -math.inf))

    def note_failure(self, address: Address) -> None:
        """It was of no use."""
        self._forget()
        self._failures[address] = trio.current_time()

    def has_failed_since(self, address: Address, at: float) -> bool:
        """Whether it was found to be of no use after a time, and has not worked since."""
        return bool(self._failures) and self._failures.get(address, -math.inf) > at

    def note_success(self, address: Address) -> None:
        """It works."""
        self._failures.pop(address, None)

    def _forget(self) -> None:
        old = trio.current_time() - _REMEMBERED_SECONDS
        self._failures = {address: at for address, at in self._failures.items() if at > old}


def address_of(attempt: ConnDict) -> Address:
    """What tells one attempt from another."""
    return tuple(get_param(attempt, name) for name in ("host", "hostaddr", "port"))


def is_of_server(text: str) -> bool:
    """Whether a server has said so, and not libpq or this library."""
    return _OF_SERVER.search(text) is not None


async def connection_attempts(
    params: ConnDict, lookup_timeout: float, addresses: Addresses | None = None
) -> tuple[list[ConnDict], list[str]]:
    """
    Return the parameters of each attempt, in the order to try them, every host name replaced by an address.

    The other list says which hosts there are no addresses of, and why.

    libpq would look names up itself, but not without blocking the thread.

    Args:
      params: as `psycopg.conninfo.conninfo_to_dict` gives them.
      lookup_timeout: how long the lookups of names, which go on side by side, may take, in seconds.
      addresses: those that have failed of late are tried last.

    Raises:
      psycopg.OperationalError: none of the hosts could be resolved, or their lists do not fit together.

    Cancellation: safe; a lookup under way is left to its thread.
    """
    prefer_standby = get_param(params, "target_session_attrs") == "prefer-standby"
    if prefer_standby:
        params = {name: value for name, value in params.items() if name != "target_session_attrs"}

    hosts = split_attempts(params)
    found: list[list[ConnDict]] = [[] for _ in hosts]
    failures: list[str] = []

    async def resolve(number: int, host_params: ConnDict) -> None:
        try:
            with move_on_after(lookup_timeout) as scope:
                found[number] = await _resolve(host_params)
            if scope.cancelled_caught:
                raise trio.TooSlowError
        except (OSError, UnicodeError, RuntimeError, trio.TooSlowError) as error:  # RuntimeError: no thread
            reason = str(error) or "the lookup timed out"
            failures.append(f"failed to resolve host {get_param(host_params, 'host')!r}: {reason}")

    async with trio.open_nursery() as nursery:
        for number, host_params in enumerate(hosts):
            nursery.start_soon(resolve, number, host_params)
    attempts = [attempt for of_host in found for attempt in of_host]
    if not attempts:
        raise psycopg.OperationalError(_in_a_line(failures))

    if get_param(params, "load_balance_hosts") == "random":
        random.shuffle(attempts)
    if addresses is not None:
        attempts = addresses.in_order(attempts)
    if prefer_standby:  # libpq is given one host at a time, so the second round over all of them is ours
        attempts = [{**attempt, "target_session_attrs": "standby"} for attempt in attempts] + [
            {**attempt, "target_session_attrs": "any"} for attempt in attempts
        ]
    return attempts, failures


async def _resolve(params: ConnDict) -> list[ConnDict]:
    """Return the parameters of one host once for each of its addresses."""
    host = get_param(params, "host")
    if not host or host.startswith(("/", "@")) or get_param(params, "hostaddr"):
        return [params]  # a Unix socket, the default host, or an address already
    if is_ip_address(host):
        return [{**params, "hostaddr": host}]
    default = get_param_def("port")
    port = get_param(params, "port") or (default and default.compiled) or "5432"
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)  # a resolver may repeat itself
    return [{**params, "hostaddr": address} for address in addresses]


async def first_to_connect(
    connect_gen: Callable[[str], PQGenConn[T]],
    attempts: list[ConnDict],
    unresolved: list[str],
    attempt_timeout: float,
    within: float,
    addresses: Addresses,
) -> tuple[T, Address]:
    """
    Return the first connection that an attempt gives, and its address.

    Args:
      connect_gen: makes psycopg's generator for a connection string.
      attempts: their parameters, at least one.
      unresolved: what is wrong with hosts that can't be tried.
      attempt_timeout: how long each of them may take, in seconds.
      within: how long all of them together may take; of what is left of that, each has an equal share.
      addresses: is told what works, and what does not.

    Raises:
      psycopg.OperationalError: there was none. Its text says in one line what was wrong with each, and first what a
        server has answered: that is there, and says what has to be done.

    Cancellation: nothing is left open.
    """
    deadline = monotonic() + within
    failures: list[tuple[str, psycopg.Error]] = []
    for number, attempt in enumerate(attempts):
        began = monotonic()
        share = (deadline - began) / (len(attempts) - number)
        address = address_of(attempt)
        try:
            with move_on_after(max(0.0, min(attempt_timeout, share))):
                connection = await run_connecting(connect_gen(make_conninfo("", **attempt)))
                addresses.note_success(address)
                return connection, address
            raise psycopg.errors.ConnectionTimeout("connection timeout expired")
        except psycopg.Error as error:
            if monotonic() - began > _AT_ONCE_SECONDS:
                # What fails at once, such as for its role, costs the others nothing.
                addresses.note_failure(address)
            problem = _problem(attempt, error)
            logger.debug("connection attempt failed: %s", problem)
            failures.append((problem, error.with_traceback(None)))
    failures.sort(key=lambda failure: not is_of_server(failure[0]))
    first = failures[0][1]
    if len(failures) + len(unresolved) == 1:
        raise first
    raise type(first)(_in_a_line([*(problem for problem, _ in failures), *unresolved])) from first


def _problem(attempt: ConnDict, error: psycopg.Error) -> str:
    """What went wrong with one attempt, in one line that names the host."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = next(filter(is_of_server, lines), lines[0])
    names = [get_param(attempt, name) for name in ("host", "hostaddr")]
    if any(name and name in line for name in names):
        return line
    return f"host {names[0] or names[1] or 'by default'!r}, port {get_param(attempt, 'port') or 5432}: {line}"


def _in_a_line(problems: list[str]) -> str:
    told = [cut(problem, _LONGEST_TOLD) for problem in dict.fromkeys(problems)]
    left = len(told) - _MOST_TOLD
    first, *others = told[:_MOST_TOLD] + ([f"and {left} more"] if left > 0 else [])
    return first + (ELSEWHERE + "; ".join(others) if others else "")
