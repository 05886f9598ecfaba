"""A name whose lookup hangs holds up itself alone, also when nobody waits for it any more."""

import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import pytest
import trio
import trio.testing

from requeuest_trio import Reached, Request, TrioTransport
from requeuest_trio._http.net import lookup_threads
from requeuest_trio._http.net.resolver import _MOST_PER_HOST, Resolver
from requeuest_trio._http.sender import Sender, open_sender
from requeuest_trio.testing import Receiver
from tests.http.hostile import PATIENT, SHORT, SMALL, send, send_request
from tests.http.lookups import Lookups
from tests.machine import within
from tests.waiting import until

SHARE = _MOST_PER_HOST


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookups]:
    fake = Lookups()
    monkeypatch.setattr(socket, "getaddrinfo", fake.getaddrinfo)
    yield fake
    fake.may_end.set()


def at(receiver: Receiver, host: str) -> str:
    return receiver.url.replace("127.0.0.1", host)


async def hang(sender: Sender, url: str, timeout: float = PATIENT) -> None:  # noqa: ASYNC109 - the total
    delivery = await send_request(sender, Request.get(url), timeout=timeout)
    assert (delivery.answer, delivery.reached) == (None, Reached.RESOLVE)


async def arrive(sender: Sender, url: str) -> None:
    assert (await send(sender, url)).error is None


async def test_lookup_that_hangs_holds_up_no_other(lookups: Lookups, sender: Sender, receiver: Receiver) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(hang, sender, at(receiver, f"{number % 20}.slow"))
        await lookups.until_running(20 * SHARE)
        with within(1):
            for number in range(20):
                assert (await send(sender, at(receiver, f"{number}.fine"))).error is None
        assert set(lookups.most.values()) == {SHARE}
        lookups.may_end.set()


async def test_address_needs_no_lookup(lookups: Lookups, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if no more can be made."""
    monkeypatch.setattr(lookup_threads, "_MOST", 1)
    async with open_sender(None, SMALL) as sender, trio.open_nursery() as nursery:
        nursery.start_soon(hang, sender, at(receiver, "one.slow"))
        await lookups.until_running(1)
        with within(1):
            assert (await send(sender, receiver.url)).error is None
            assert (await send(sender, receiver.url.replace("http", "https"))).reached is Reached.TLS
        lookups.may_end.set()


async def test_cancelled_lookup_keeps_its_place_until_it_ends(
    lookups: Lookups, sender: Sender, receiver: Receiver
) -> None:
    """Otherwise every attempt would leave a thread behind."""
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(hang, sender, at(receiver, "one.slow"), SHORT / 3)
        assert lookups.running == {"one.slow": SHARE}
    with within(1):
        assert (await send(sender, at(receiver, "one.fine"))).error is None
    lookups.may_end.set()
    await lookups.until_running(0)
    # The places are there again.
    await hang(sender, at(receiver, "one.slow"))
    assert lookups.most == {"one.slow": SHARE}


async def test_attempts_that_begin_at_once_share_an_answer(
    lookups: Lookups, sender: Sender, receiver: Receiver
) -> None:
    """Else the last of them waits for as many lookups as there are others, one after the other."""
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(arrive, sender, at(receiver, "one.late"))
            nursery.start_soon(hang, sender, at(receiver, "one.slow"))
        await lookups.until_running(2 * SHARE)
        await trio.testing.wait_all_tasks_blocked()
        lookups.may_end.set()
    assert (lookups.asked["one.late"], lookups.asked["one.slow"]) == (SHARE, SHARE)


async def test_who_waits_for_an_answer_asks_itself_if_the_others_give_up_before_they_could(
    lookups: Lookups, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup_threads, "_MOST", 1)
    async with open_sender(None, SMALL) as sender, trio.open_nursery() as nursery:
        nursery.start_soon(hang, sender, at(receiver, "one.slow"))
        await lookups.until_running(1)
        async with trio.open_nursery() as impatient:
            for _ in range(SHARE):
                impatient.start_soon(hang, sender, at(receiver, "one.fine"), SHORT)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(arrive, sender, at(receiver, "one.fine"))
        lookups.may_end.set()
    assert lookups.asked["one.fine"] == 1


async def test_failed_lookup_is_told(lookups: Lookups, sender: Sender, receiver: Receiver) -> None:
    lookups.may_end.set()
    delivery = await send(sender, at(receiver, "one.slow"))
    assert (delivery.answer, delivery.reached) == (None, Reached.RESOLVE)
    assert "try again" in str(delivery.error)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
async def test_name_that_can_be_none(host: str) -> None:
    """The system's function raises something of its own for them."""
    with pytest.raises(httpx2.ConnectError, match="no name that can be looked up"):
        await TrioTransport().handle_async_request(httpx2.Request("GET", f"http://{host}/"))


# --- shares and domains -----------------------------------------------------------------------------------------------

NAMES = 1_200
MOST = lookup_threads._MOST


async def ask(resolver: Resolver, host: str, share: str | None) -> None:
    with suppress(OSError):
        await resolver.addresses(host, 80, share)


async def test_names_that_hang_hold_up_no_other_share(lookups: Lookups) -> None:
    """Neither a share that has few lookups, nor one that comes after many that take all they may have."""
    resolver = Resolver()
    async with trio.open_nursery() as nursery:
        for number in range(NAMES):
            # Half of them have domains of their own, the others are names of one.
            host = f"{number}.slow" if number % 2 else f"{number}.example.slow"
            nursery.start_soon(ask, resolver, host, f"sick-{number % 12}")
        await trio.testing.wait_all_tasks_blocked()
        await lookups.until_running(lookup_threads._MOST_COMMON)
        for host in ("healthy.fine", "healthy.example.fine", "healthy.slowly.example.fine"):
            with within(1):
                assert await resolver.addresses(host, 80, "healthy")
        assert lookups.running.total() < MOST
        nursery.cancel_scope.cancel()
    lookups.may_end.set()
    await until(lambda: "0 running, 0 waiting" in repr(resolver))


async def test_names_that_hang_hold_up_no_other_domain(lookups: Lookups) -> None:
    """Of the same share, or without any, as in a client of httpx2."""
    for share in ("one", None):
        resolver = Resolver()
        async with trio.open_nursery() as nursery:
            for number in range(NAMES):
                nursery.start_soon(ask, resolver, f"{number}.deep.example.slow", share)
            await trio.testing.wait_all_tasks_blocked()
            await lookups.until_running(lookup_threads._MOST_PER_DOMAIN)
            with within(1):
                assert await resolver.addresses("healthy.fine", 80, share)
            lookups.may_end.set()
        await lookups.until_running(0)
        lookups.may_end.clear()


async def test_shares_take_turns(lookups: Lookups) -> None:
    """Whoever waits is served, one share after the other, however many names one of them has."""
    resolver = Resolver()
    order: list[str] = []

    async def ask_and_note(host: str, share: str) -> None:
        await ask(resolver, host, share)
        order.append(share)

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask_and_note, f"{number}.slow", "large")
        await trio.testing.wait_all_tasks_blocked()
        await lookups.until_running(lookup_threads._MOST_PER_SHARE)
        for number in range(40):
            nursery.start_soon(ask_and_note, f"{number}.late", "small")
        await trio.testing.wait_all_tasks_blocked()
        await lookups.until_running(2 * lookup_threads._MOST_PER_SHARE)
        lookups.may_end.set()
    assert order.index("small") < 100
    assert lookups.asked.total() == 240
