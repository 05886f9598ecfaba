"""From connection parameters to a connection: hosts, their addresses, and one attempt after the other."""

from __future__ import annotations

import logging
import random
import socket
from typing import TYPE_CHECKING, TypeVar

import psycopg
import trio
from psycopg._conninfo_utils import get_param, get_param_def, is_ip_address, split_attempts
from psycopg.conninfo import make_conninfo

from requeuest_trio._postgres.waiting import run_connecting

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import ConnDict, PQGenConn

__all__ = ("connection_attempts", "first_to_connect")

logger = logging.getLogger("requeuest_trio.postgres")

T = TypeVar("T")


async def connection_attempts(params: ConnDict, lookup_timeout: float) -> list[ConnDict]:
    """
    Return the parameters of each attempt, in the order to try them, every host name replaced by an address.

    libpq would look names up itself, but not without blocking the thread.

    Args:
      params: as `psycopg.conninfo.conninfo_to_dict` gives them.
      lookup_timeout: how long the lookup of one name may take, in seconds.

    Raises:
      psycopg.OperationalError: none of the hosts could be resolved, or their lists do not fit together.

    Cancellation: safe; a lookup under way is left to its thread.
    """
    prefer_standby = get_param(params, "target_session_attrs") == "prefer-standby"
    if prefer_standby:
        params = {name: value for name, value in params.items() if name != "target_session_attrs"}

    attempts: list[ConnDict] = []
    failures: list[str] = []
    for host_params in split_attempts(params):
        try:
            with trio.fail_after(lookup_timeout):
                attempts += await _resolve(host_params)
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            reason = str(error) or "the lookup timed out"
            failures.append(f"failed to resolve host {get_param(host_params, 'host')!r}: {reason}")
    if not attempts:
        raise psycopg.OperationalError("\n".join(failures))

    if get_param(params, "load_balance_hosts") == "random":
        random.shuffle(attempts)
    if prefer_standby:  # libpq is given one host at a time, so the second round over all of them is ours
        attempts = [{**attempt, "target_session_attrs": "standby"} for attempt in attempts] + [
            {**attempt, "target_session_attrs": "any"} for attempt in attempts
        ]
    return attempts


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
    connect_gen: Callable[[str], PQGenConn[T]], attempts: list[ConnDict], attempt_timeout: float
) -> T:
    """
    Return the first connection that an attempt gives.

    Args:
      connect_gen: makes psycopg's generator for a connection string.
      attempts: their parameters, at least one.
      attempt_timeout: how long each of them may take, in seconds.

    Raises:
      psycopg.OperationalError: there was none. With more than one attempt, the text lists what was wrong with each.

    Cancellation: nothing is left open.
    """
    failures: list[tuple[str, psycopg.Error]] = []
    for attempt in attempts:
        try:
            with trio.move_on_after(attempt_timeout):
                return await run_connecting(connect_gen(make_conninfo("", **attempt)))
            raise psycopg.errors.ConnectionTimeout("connection timeout expired")
        except psycopg.Error as error:
            where = ", ".join(f"{name}: {attempt.get(name)!r}" for name in ("host", "port", "hostaddr"))
            logger.debug("connection attempt failed: %s: %s", where, error)
            failures.append((where, error.with_traceback(None)))
    last = failures[-1][1]
    if len(failures) == 1:
        raise last
    lines = [f"{last}\nNone of {len(failures)} connection attempts succeeded:"]
    lines += [f"- {where}: {error}" for where, error in failures]
    raise type(last)("\n".join(lines)) from last
