"""
The way to a database: several addresses of which some are silent, and a connection string that changes.

What could go wrong: a host that accepts and says nothing takes the time of all others, again and again; a callable that
hangs, raises or returns nonsense, or is asked once for all connections.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio._postgres import Dsn, Route, TrioConnection
from requeuest_trio._postgres.connecting import Addresses
from tests.postgres.harness import value
from tests.postgres.test_connect import FakeResolver, resolve_to  # noqa: F401 - a fixture
from tests.proxy import Proxy, open_proxy

WITHIN = 3.0
AT_ONCE = 0.5
"""Far less than a share of `WITHIN`."""


class Silent:
    """Accepts connections, and says nothing."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self.accepted = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.accepted += 1
        await trio.sleep_forever()


async def _open_silent(nursery: trio.Nursery, host: str = "127.0.0.1", port: int = 0) -> Silent:
    [listener] = await trio.open_tcp_listeners(port, host=host)
    silent = Silent(listener)
    nursery.start_soon(trio.serve_listeners, silent.serve, [listener])
    return silent


@pytest.fixture
async def silent(nursery: trio.Nursery) -> Silent:
    return await _open_silent(nursery)


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    async with open_proxy(dsn) as running:
        yield running


async def _seconds(route: Route) -> float:
    began = trio.current_time()
    async with await route.connect(WITHIN) as conn:
        assert await value(conn, "select true")
    return trio.current_time() - began


MANY: list[dict[str, str]] = [
    {"host": "127.0.0.1,127.0.0.1"},
    {"host": "a.invalid,b.invalid", "hostaddr": "127.0.0.1,127.0.0.1"},
    {"host": "127.0.0.1,127.0.0.1", "target_session_attrs": "read-write"},
    {"host": "127.0.0.1,127.0.0.1", "target_session_attrs": "prefer-standby"},
    {"host": "127.0.0.1,127.0.0.1", "load_balance_hosts": "disable"},
]


@pytest.mark.parametrize("hosts", MANY, ids=",".join)
async def test_a_silent_host_costs_its_share_once(
    dsn: str, proxy: Proxy, silent: Silent, hosts: dict[str, str]
) -> None:
    route = Route(make_conninfo(dsn, port=f"{silent.port},{proxy.port}", **hosts))
    first = await _seconds(route)
    assert silent.accepted >= 1
    assert first < WITHIN
    asked = silent.accepted
    assert await _seconds(route) < WITHIN
    if "prefer-standby" not in hosts.values():  # of which there is none, so that all are tried
        assert silent.accepted == asked, "the next try begins with the other"


async def test_all_hosts_have_their_share(dsn: str, proxy: Proxy, silent: Silent, nursery: trio.Nursery) -> None:
    others = [await _open_silent(nursery) for _ in range(3)]
    ports = [silent.port, *(each.port for each in others), proxy.port]
    route = Route(make_conninfo(dsn, host=",".join(["127.0.0.1"] * 5), port=",".join(map(str, ports))))
    assert await _seconds(route) < WITHIN
    assert await _seconds(route) < AT_ONCE


async def test_a_silent_address_of_a_name(
    dsn: str,
    proxy: Proxy,
    nursery: trio.Nursery,
    resolve_to: Callable[..., FakeResolver],  # noqa: F811
) -> None:
    """As an IPv6 address is whose packets go nowhere."""
    dead = await _open_silent(nursery, "127.0.0.2", proxy.port)
    resolve_to(db_example=["127.0.0.2", "127.0.0.1"])
    route = Route(make_conninfo(proxy.dsn, host="db.example"))
    assert AT_ONCE < await _seconds(route) < WITHIN
    assert await _seconds(route) < AT_ONCE
    assert dead.accepted == 1


async def test_a_name_that_is_not_found_out_costs_the_others_nothing(
    dsn: str,
    proxy: Proxy,
    resolve_to: Callable[..., FakeResolver],  # noqa: F811
) -> None:
    resolve_to(db_example=["127.0.0.1"])
    names = make_conninfo(dsn, host="slow.example,slow.example,db.example", port=str(proxy.port))
    assert await _seconds(Route(names)) < WITHIN


async def test_one_that_turns_out_to_be_of_no_use_is_avoided(dsn: str, proxy: Proxy, nursery: trio.Nursery) -> None:
    async with open_proxy(dsn) as other:
        ports = f"{proxy.port},{other.port}"
        route = Route(make_conninfo(dsn, host="127.0.0.1,127.0.0.1", port=ports))
        async with await route.connect(WITHIN) as conn:
            assert conn.info.port == proxy.port
            route.avoid(conn)
        async with await route.connect(WITHIN) as conn:
            assert conn.info.port == other.port


def test_a_failure_is_forgotten_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        addresses = Addresses()
        attempts: list[dict[str, str | int | None]] = [
            {"host": "a", "port": "1"},
            {"host": "b", "port": "1"},
            {"host": "c", "port": "1"},
        ]
        addresses.note_failure(("a", None, "1"))
        await trio.sleep(1)
        addresses.note_failure(("b", None, "1"))
        assert [each["host"] for each in addresses.in_order(attempts)] == ["c", "a", "b"]
        addresses.note_success(("a", None, "1"))
        assert [each["host"] for each in addresses.in_order(attempts)] == ["a", "c", "b"]
        await trio.sleep(61)
        assert addresses.in_order(attempts) == attempts

    trio.run(main, clock=autojump_clock)


# --- a connection string that changes ---------------------------------------------------------------------------------


async def test_a_callable_is_asked_for_each_connection(dsn: str) -> None:
    asked: list[str] = []

    def now() -> str:
        asked.append(make_conninfo(dsn, application_name=f"number {len(asked)}"))
        return asked[-1]

    async def soon() -> str:
        await trio.lowlevel.checkpoint()
        return now()

    sources: list[Dsn] = [now, soon, now]
    for number, source in enumerate(sources):
        async with await Route(source).connect(WITHIN) as conn:
            assert await value(conn, "show application_name") == f"number {number}"


def _raise() -> str:
    raise KeyError("s3cret")


async def _raise_later() -> str:
    await trio.lowlevel.checkpoint()
    raise ValueError("s3cret")


async def _hang() -> str:
    await trio.sleep_forever()
    raise AssertionError


def _nothing() -> Any:
    return None


async def _bytes_later() -> Any:
    return b"postgresql:///"


FAILURES: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (_raise, "has raised KeyError"),
    "raises later": (_raise_later, "has raised ValueError"),
    "hangs": (_hang, "the callable for the dsn has not answered within"),
    "returns nothing": (_nothing, "must return a str, not NoneType"),
    "returns bytes": (_bytes_later, "must return a str, not bytes"),
    "embedded": (lambda: "embedded:", "not embedded:"),
}


@pytest.mark.parametrize(("source", "text"), FAILURES.values(), ids=FAILURES)
async def test_a_callable_that_fails_is_an_outage(source: Callable[[], Any], text: str) -> None:
    with trio.fail_after(AT_ONCE * 4), pytest.raises(psycopg.OperationalError, match=text) as caught:
        await Route(source).connect(AT_ONCE)
    assert "s3cret" not in str(caught.value)


async def test_a_callable_may_be_cancelled() -> None:
    with trio.move_on_after(0.01) as scope:
        await Route(_hang).connect(WITHIN)
    assert scope.cancelled_caught


async def test_what_a_callable_returns_may_have_several_hosts(dsn: str, proxy: Proxy, silent: Silent) -> None:
    both = make_conninfo(dsn, host="127.0.0.1,127.0.0.1", port=f"{silent.port},{proxy.port}")
    route = Route(lambda: both)
    await _seconds(route)
    assert await _seconds(route) < AT_ONCE


async def test_without_a_route_each_attempt_has_libpqs_time(dsn: str) -> None:
    async with await TrioConnection.connect(dsn) as conn:
        assert conn.address[0] == conninfo_to_dict(dsn)["host"]
