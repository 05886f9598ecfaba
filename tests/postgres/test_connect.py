"""Connecting: name lookup, several hosts, deadlines, what the error says, and that nothing is left behind."""

import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
import trio
from psycopg.adapt import Loader
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from requeuest_trio import DatabaseUnavailable, migrate
from requeuest_trio._postgres import ELSEWHERE, TrioConnection, connection
from requeuest_trio._postgres.connecting import connection_attempts
from tests.postgres.harness import Conn, open_fds, value
from tests.proxy import Proxy, open_proxy

SOON = 0.3


class FakeResolver(trio.abc.HostnameResolver):
    """Knows the names it is given; the lookup of ``slow.example`` never ends."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.asked: list[object] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002  # the interface's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        name = (host or b"").decode()
        self.asked.append(name)
        if name == "slow.example":
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, type, proto, "", (address, int(port))) for address in self.names[name]]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
def resolve_to() -> Callable[..., FakeResolver]:
    def install(**names: list[str]) -> FakeResolver:
        resolver = FakeResolver(**names)
        trio.socket.set_custom_hostname_resolver(resolver)
        return resolver

    return install


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's shortest connect_timeout is two seconds; tests have less patience."""
    monkeypatch.setattr(connection, "timeout_from_conninfo", lambda params: SOON)


@pytest.fixture
async def frozen(dsn: str) -> AsyncIterator[Proxy]:
    """A host that accepts connections and then says nothing."""
    async with open_proxy(dsn) as proxy:
        proxy.freeze()
        yield proxy


async def connects(*args: Any, **kwargs: Any) -> bool:
    async with await TrioConnection.connect(*args, **kwargs) as conn:
        return bool(await value(conn, "select true"))


async def test_unix_socket_and_keyword_arguments(dsn: str) -> None:
    assert await connects(dsn)
    assert await connects(dsn, application_name="named", connect_timeout=5)


async def test_address_and_name(dsn: str, proxy: Proxy, resolve_to: Callable[..., FakeResolver]) -> None:
    resolver = resolve_to(db_example=["127.0.0.1"])
    assert await connects(proxy.dsn)
    assert await connects(make_conninfo(proxy.dsn, host="ignored.example", hostaddr="127.0.0.1"))
    assert resolver.asked == []
    assert await connects(make_conninfo(proxy.dsn, host="db.example"))
    assert resolver.asked == ["db.example"]


async def test_a_name_from_the_systems_resolver(dsn: str, proxy: Proxy) -> None:
    assert await connects(make_conninfo(proxy.dsn, host="localhost"))


async def test_options_of_the_connection(dsn: str) -> None:
    class Upper(Loader):
        def load(self, data: Any) -> str:
            return bytes(data).decode().upper()

    context = psycopg.adapters.connection
    assert context is None
    async with await TrioConnection.connect(dsn) as template:
        template.adapters.register_loader("text", Upper)
        async with await TrioConnection.connect(
            dsn, autocommit=True, prepare_threshold=None, row_factory=dict_row, context=template
        ) as conn:
            assert conn.autocommit
            assert conn.prepare_threshold is None
            assert await (await conn.execute("select 'x'::text as a")).fetchone() == {"a": "X"}


async def test_a_subclass_connects_as_itself(dsn: str) -> None:
    class Special(TrioConnection[Any]):
        pass

    async with await Special.connect(dsn) as conn:
        assert type(conn) is Special


async def test_the_next_host_is_tried(dsn: str, proxy: Proxy, closed_port: int) -> None:
    hosts = make_conninfo(dsn, host="127.0.0.1,127.0.0.1", port=f"{closed_port},{proxy.port}")
    assert await connects(hosts)
    assert await connects(hosts, hostaddr="127.0.0.1,127.0.0.1", host="a.invalid,b.invalid")


async def test_the_next_address_of_a_host_is_tried(
    dsn: str, proxy: Proxy, resolve_to: Callable[..., FakeResolver]
) -> None:
    resolve_to(db_example=["127.255.255.254", "127.0.0.1"])
    assert await connects(make_conninfo(proxy.dsn, host="db.example", connect_timeout=5))


async def test_a_host_without_a_name_does_not_hinder_the_others(
    dsn: str, proxy: Proxy, resolve_to: Callable[..., FakeResolver]
) -> None:
    resolve_to(db_example=["127.0.0.1"])
    assert await connects(make_conninfo(proxy.dsn, host="nowhere.example,db.example"))


@pytest.mark.usefixtures("short_timeout")
async def test_each_attempt_and_each_lookup_has_its_own_timeout(
    dsn: str, proxy: Proxy, frozen: Proxy, resolve_to: Callable[..., FakeResolver]
) -> None:
    resolve_to(db_example=["127.0.0.1"])
    fds = open_fds()
    with trio.fail_after(SOON * 2 + 2):
        assert await connects(
            make_conninfo(
                dsn,
                host="slow.example,127.0.0.1,db.example",
                port=f"1,{frozen.port},{proxy.port}",
            )
        )
    await trio.testing.wait_all_tasks_blocked()
    assert frozen.accepted == 1
    frozen.cut()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert open_fds() <= fds + 1


@pytest.mark.usefixtures("short_timeout")
async def test_a_timeout_is_named(dsn: str, frozen: Proxy) -> None:
    with pytest.raises(psycopg.errors.ConnectionTimeout, match="timeout expired"):
        await connects(frozen.dsn)


@pytest.mark.parametrize(("given", "used"), [({}, 130), ({"connect_timeout": 0}, 130), ({"connect_timeout": 7}, 7)])
async def test_connect_timeout_is_libpqs(
    dsn: str, monkeypatch: pytest.MonkeyPatch, given: dict[str, int], used: int
) -> None:
    timeouts: list[float] = []
    real = trio.move_on_after

    def move_on_after(seconds: float, **kwargs: Any) -> trio.CancelScope:
        timeouts.append(seconds)
        return real(seconds, **kwargs)

    monkeypatch.setattr(trio, "move_on_after", move_on_after)
    assert await connects(dsn, **given)
    assert timeouts[0] == used


async def test_the_error_names_every_failed_attempt_in_one_line(
    dsn: str, closed_port: int, resolve_to: Callable[..., FakeResolver]
) -> None:
    resolve_to(db_example=["127.0.0.1", "127.0.0.2"])
    with pytest.raises(psycopg.OperationalError) as caught:
        await connects(make_conninfo(dsn, host="db.example,/nowhere,no.example", port=closed_port, connect_timeout=5))
    [text] = str(caught.value).splitlines()
    for part in ("127.0.0.1", "127.0.0.2", "/nowhere", "no.example", "refused", "No such file", "not known"):
        assert part in text


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_what_a_server_answers_is_told_first(
    dsn: str, closed_port: int, place: int, resolve_to: Callable[..., FakeResolver]
) -> None:
    """The others may be standbys that are away; what has to be done, the server says that is there."""
    resolve_to()
    params = psycopg.conninfo.conninfo_to_dict(dsn)
    hosts, ports = ["127.0.0.1", "nowhere.example"], [str(closed_port)] * 2
    hosts.insert(place, str(params["host"]))
    ports.insert(place, str(params["port"]))
    several = make_conninfo(dsn, host=",".join(hosts), port=",".join(ports), user="nobody_here")
    with pytest.raises(psycopg.OperationalError) as caught:
        await connects(several)
    first, _, others = str(caught.value).partition(ELSEWHERE)
    assert 'role "nobody_here" does not exist' in first
    assert str(params["host"]) in first
    assert "refused" in others
    assert "nowhere.example" in others
    with pytest.raises(DatabaseUnavailable, match=r"does not exist; create the role .*; elsewhere: .*refused.*known$"):
        await migrate(several)


@pytest.mark.usefixtures("short_timeout")
async def test_a_host_that_says_nothing_is_named_too(dsn: str, frozen: Proxy, closed_port: int) -> None:
    hosts = make_conninfo(dsn, host="127.0.0.1,127.0.0.1", port=f"{closed_port},{frozen.port}")
    told = rf"refused; elsewhere: host '127.*{frozen.port}: .*expired"
    with pytest.raises(psycopg.OperationalError, match=told):
        await connects(hosts)


async def test_many_hosts_make_no_long_error(dsn: str, closed_port: int) -> None:
    hosts = make_conninfo(dsn, host=",".join(f"127.0.0.{number}" for number in range(1, 51)), port=closed_port)
    with pytest.raises(psycopg.OperationalError, match=r"127\.0\.0\.10.*; and 40 more$") as caught:
        await connects(hosts)
    assert len(str(caught.value)) < 3_000


async def test_unresolvable_hosts_are_all_named(dsn: str, resolve_to: Callable[..., FakeResolver]) -> None:
    resolve_to()
    with pytest.raises(psycopg.OperationalError, match=r"(?s)^(?=.*'one\.example')(?=.*'two\.example')"):
        await connects(make_conninfo(dsn, host="one.example,two.example"))


async def test_lists_that_do_not_fit_together(dsn: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="port"):
        await connects(make_conninfo(dsn, host="a,b", port="1,2,3"))
    with pytest.raises(psycopg.OperationalError, match="hostaddr"):
        await connects(make_conninfo(dsn, host="a,b", hostaddr="127.0.0.1"))


async def test_what_cannot_be_understood_is_a_programming_error() -> None:
    with pytest.raises(psycopg.ProgrammingError):
        await connects("host=x nonsense")
    with pytest.raises(psycopg.ProgrammingError, match="connect_timeout"):
        await connects("", connect_timeout="soon")


async def test_an_unknown_database_is_the_servers_error(dsn: str) -> None:
    fds = open_fds()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        await connects(dsn, dbname="no_such_database")
    assert open_fds() == fds


@pytest.mark.parametrize(
    ("attrs", "works"),
    [("any", True), ("read-write", True), ("primary", True), ("prefer-standby", True), ("standby", False)],
)
async def test_target_session_attrs(dsn: str, attrs: str, works: bool) -> None:
    if works:
        assert await connects(dsn, target_session_attrs=attrs)
    else:
        with pytest.raises(psycopg.OperationalError):
            await connects(dsn, target_session_attrs=attrs)


async def test_prefer_standby_tries_all_hosts_as_standby_first() -> None:
    attempts, _ = await connection_attempts(
        {"host": "127.0.0.1,127.0.0.2", "target_session_attrs": "prefer-standby"}, lookup_timeout=1
    )
    assert [(attempt["host"], attempt["target_session_attrs"]) for attempt in attempts] == [
        ("127.0.0.1", "standby"),
        ("127.0.0.2", "standby"),
        ("127.0.0.1", "any"),
        ("127.0.0.2", "any"),
    ]


async def test_load_balancing_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "shuffle", list.reverse)
    attempts, _ = await connection_attempts(
        {"host": "127.0.0.1,/tmp,@abstract", "load_balance_hosts": "random"}, lookup_timeout=1
    )
    assert [attempt["host"] for attempt in attempts] == ["@abstract", "/tmp", "127.0.0.1"]


async def test_cancelling_leaves_nothing_open(dsn: str, frozen: Proxy) -> None:
    for host in ("127.0.0.1", "slow.example"):
        trio.socket.set_custom_hostname_resolver(FakeResolver())
        fds = open_fds()
        with trio.move_on_after(0.05) as scope:
            await connects(frozen.dsn, host=host)
        assert scope.cancelled_caught
        frozen.cut()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert open_fds() <= fds


async def test_many_at_once(dsn: str, observer: Conn) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(connects, dsn)
