"""A host with several addresses is reached if one of them answers; the others cost little time and no sockets."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
import trio

from requeuest_trio import Reached, TrioTransport
from requeuest_trio._http.net.pool import Connections
from requeuest_trio._http.net.race import _ATTEMPT_DELAY, _interleaved, first_connected
from requeuest_trio._http.net.resolver import Address
from requeuest_trio._http.sender import open_sender
from requeuest_trio._http.wire.message import message_of, target_of
from requeuest_trio._model.origin import Origin
from requeuest_trio._model.outcome import Delivery
from tests.http import hostile
from tests.http.hostile import PATIENT, SHORT, SMALL, RawServer, raw_server, send
from tests.http.recording import OK
from tests.postgres.harness import open_fds


async def get(addresses: list[Address], *, timeout: float = PATIENT) -> Delivery:  # noqa: ASYNC109 - the total
    """Send a request to a host with these addresses."""

    async def found(*_: object) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return addresses

    transport = TrioTransport()
    transport._connector._resolver.addresses = found  # type: ignore[method-assign, assignment]
    async with open_sender(transport, SMALL) as sender:
        delivery = await send(sender, "http://several.example/", timeout=timeout)
    await transport.aclose()
    return delivery


async def serve(stream: trio.abc.Stream) -> None:
    while await stream.receive_some():
        await stream.send_all(OK)


def alive(server: RawServer) -> Address:
    return socket.AF_INET, ("127.0.0.1", server.port)


@contextmanager
def refusing(family: socket.AddressFamily = socket.AF_INET) -> Iterator[Address]:
    """An address on which nobody listens."""
    with socket.socket(family) as reserved:
        reserved.bind(("::1" if family is socket.AF_INET6 else "127.0.0.1", 0))
        yield family, reserved.getsockname()


@contextmanager
def silent() -> Iterator[Address]:
    """The same, but it does not answer at all."""
    with hostile.silent() as address:
        yield socket.AF_INET, address


async def test_localhost_without_ipv6() -> None:
    async with raw_server(serve) as server:
        with refusing(socket.AF_INET6) as refused:
            began = trio.current_time()
            delivery = await get([refused, alive(server)])
            assert delivery.answer is not None
            assert trio.current_time() - began < _ATTEMPT_DELAY  # the next is tried as soon as the last has failed


async def test_first_address_is_silent() -> None:
    """RFC 8305 section 5: the next is tried beside it, a quarter of a second later."""
    async with raw_server(serve) as server:
        with silent() as address:
            fds = open_fds()
            began = trio.current_time()
            delivery = await get([address, alive(server)])
            assert delivery.answer is not None
            assert _ATTEMPT_DELAY <= trio.current_time() - began < _ATTEMPT_DELAY + 1.0
            await server.wait_empty()
            assert open_fds() == fds


async def test_several_are_bad() -> None:
    async with raw_server(serve) as server:
        with silent() as one, refusing() as two, refusing(socket.AF_INET6) as three:
            assert (await get([one, two, three, alive(server)])).answer is not None


async def test_all_refuse() -> None:
    fds = open_fds()
    with refusing() as one, refusing(socket.AF_INET6) as two:
        delivery = await get([one, two])
    assert (delivery.answer, delivery.reached) == (None, Reached.CONNECT)
    assert "refused" in str(delivery.error)
    assert open_fds() == fds


async def test_all_are_silent() -> None:
    with silent() as one, silent() as two:
        fds = open_fds()
        delivery = await get([one, two], timeout=SHORT)
        assert (delivery.answer, delivery.reached) == (None, Reached.CONNECT)
        assert "timed out" in str(delivery.error)
        assert open_fds() == fds


async def test_family_that_this_machine_does_not_have() -> None:
    async with raw_server(serve) as server:
        unknown = (socket.AF_APPLETALK, ("127.0.0.1", server.port))
        assert (await get([unknown, alive(server)])).answer is not None


@pytest.mark.parametrize(
    ("given", "tried"),
    [("6644", "6464"), ("4466", "4646"), ("6444", "6444"), ("446", "464"), ("44", "44"), ("6", "6"), ("", "")],
)
def test_families_take_turns(given: str, tried: str) -> None:
    """RFC 8305 section 4: beginning with what the system prefers, each family in its own order."""
    families = {"4": socket.AF_INET, "6": socket.AF_INET6}
    addresses: list[Address] = [(families[kind], (kind, number)) for number, kind in enumerate(given)]
    order = _interleaved(addresses) if addresses else []
    assert "".join(str(where[0]) for _, where in order) == tried
    for family in families.values():
        assert [a for a in order if a[0] is family] == [a for a in addresses if a[0] is family]


class Books:
    """Gives out so many sockets beside the first, and counts."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = self.peak = 0

    def acquire(self) -> bool:
        if self.taken == self.most:
            return False
        self.taken += 1
        self.peak = max(self.peak, self.taken)
        return True

    def release(self) -> None:
        self.taken -= 1


@pytest.mark.parametrize("most", [0, 1, 100])
async def test_dead_addresses_take_a_few_sockets_and_the_last_is_reached(most: int) -> None:
    """Each of them has its share of the time, so that the others come to theirs within the deadline."""
    books, fds = Books(most), open_fds()
    async with raw_server(serve) as server:
        with silent() as address:
            before = open_fds()
            with trio.fail_after(6):
                sock = await first_connected([address] * 8 + [alive(server)], books)
            sock.close()
            await server.wait_empty()
            assert open_fds() == before
    assert books.peak == min(most, 2)
    assert books.taken == 0
    assert open_fds() == fds


async def test_sockets_of_all_attempts_are_bounded() -> None:
    """Those beside the first of each are a part of all, and leave places to others."""
    pool = Connections(most=100, most_per_origin=100, keepalive=4.0)
    for number in range(40):
        assert await pool.acquire(Origin("http", f"host-{number % 8}", 80)) is None
    granted = dict.fromkeys(range(8), 0)
    for name in [*range(8)] * 10:
        granted[name] += pool.acquire_extra(Origin("http", f"host-{name}", 80))
    assert sum(granted.values()) == 20
    assert max(granted.values()) <= 4
    assert pool.statistics().open == 60
    for name, number in granted.items():
        for _ in range(number):
            pool.release_extra(Origin("http", f"host-{name}", 80))
    assert pool.statistics().open == 40


@pytest.mark.parametrize("zone", ["%eth9", "%25eth9"])
def test_a_zone_is_for_this_machine_only(zone: str) -> None:
    """RFC 6874: it says over which link to connect, and is sent to nobody."""
    target = target_of(f"http://[fe80::1{zone}]:8080/path")
    assert (target.origin.host, target.host) == ("fe80::1%eth9", b"[fe80::1]:8080")
    message = message_of(httpx2.Request("GET", f"http://[fe80::1{zone}]/"))
    assert message.head.startswith(b"GET / HTTP/1.1\r\nHost: [fe80::1]\r\n")
