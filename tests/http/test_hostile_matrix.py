"""Whatever a receiver does: each attempt ends in time, in the right class, within bounded memory, and leaves nothing.

Each receiver is met by the sender (what did it reach?) and by an httpx2 client (which error?), over `TrioTransport`.
"""

import resource
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
import trio
import trustme

from requeuest_trio import Reached, Request, TrioTransport
from requeuest_trio._http.net.pool import ConnectionStatistics
from requeuest_trio._http.sender import open_sender
from requeuest_trio._model.outcome import Delivery
from tests.http.hostile import SHORT, SMALL, RawServer, never_accepting, raw_server, read_head, send_request
from tests.http.hostile_cases import CASES, OK, PATIENT, Case, for_ever
from tests.machine import within
from tests.postgres.harness import open_fds


@asynccontextmanager
async def bounded(transport: TrioTransport) -> AsyncIterator[None]:
    """Fails if memory grows by more than a few MB, or anything is left open."""
    fds, tasks = open_fds(), trio.lowlevel.current_statistics().tasks_living
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    transport.close()
    assert transport.statistics() == ConnectionStatistics(open=0, idle=0, waiting=0)
    with trio.fail_after(5):
        while (open_fds(), trio.lowlevel.current_statistics().tasks_living) != (fds, tasks):  # noqa: ASYNC110
            await trio.sleep(0.001)


@pytest.mark.parametrize("name", CASES)
async def test_attempt(name: str) -> None:
    case = CASES[name]
    transport = TrioTransport()
    async with raw_server(case.handle) as server, bounded(transport), open_sender(transport, SMALL) as sender:
        request = Request.post(server.url.replace("http", case.scheme), content=b"x")
        # On a slow machine it may not come as far as the case in a short time: then it gets longer.
        for timeout in (case.timeout, 4 * case.timeout, 16 * case.timeout):
            with within(timeout + 0.5):
                delivery = await send_request(sender, request, timeout=timeout)
            if delivery.reached in case.reached:
                break
    assert delivery.reached in case.reached, delivery
    assert_told(case, delivery)


def assert_told(case: Case, delivery: Delivery) -> None:
    if delivery.reached is Reached.RESPONSE:
        assert delivery.answer is not None
        assert len(delivery.answer.body) <= SMALL.max_response_body
        assert case.body is None or case.body(delivery.answer.body)
        assert case.truncated in {None, delivery.answer.truncated}
        assert bool(delivery.answer.cut_off) == (case.error is not None)
    else:
        assert delivery.answer is None
        assert delivery.error
        assert ("timed out" in delivery.error) == (case.timeout == SHORT)


@pytest.mark.parametrize("name", CASES)
async def test_client_of_httpx2(name: str) -> None:
    case = CASES[name]
    transport = TrioTransport(deadline=case.timeout, max_body=SMALL.max_response_body)
    async with raw_server(case.handle) as server, bounded(transport):
        client = httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None)
        url = server.url.replace("http", case.scheme)
        with within(case.timeout + 0.5):
            if case.error is not None:
                with pytest.raises(case.error):
                    await client.post(url, content=b"x")
            else:
                async with client.stream("POST", url, content=b"x") as response:
                    body = b"".join([piece async for piece in response.aiter_raw()])
                assert len(body) <= SMALL.max_response_body
                assert response.extensions["truncated"] in {case.truncated, len(body) == SMALL.max_response_body}


async def test_never_accepts() -> None:
    """Nothing was sent there."""
    transport = TrioTransport()
    with never_accepting() as url:
        async with bounded(transport), open_sender(transport, SMALL) as sender:
            with within(SHORT + 0.5):
                delivery = await send_request(sender, Request.get(url), timeout=SHORT)
    assert (delivery.answer, delivery.reached) == (None, Reached.CONNECT)


# --- certificates -----------------------------------------------------------------------------------------------------


async def reached_with(server: RawServer, context: ssl.SSLContext, host: str = "localhost") -> Delivery:
    transport = TrioTransport(ssl_context=context)
    async with bounded(transport), open_sender(transport, SMALL) as sender:
        request = Request.get(f"https://{host}:{server.port}/")
        return await send_request(sender, request, timeout=PATIENT)


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def test_certificates_that_are_refused(authority: trustme.CA, client_tls: ssl.SSLContext) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    refused = {
        "unable to get local issuer": trustme.CA().issue_cert("localhost"),
        "expired": authority.issue_cert("localhost", not_before=yesterday - timedelta(days=1), not_after=yesterday),
        "mismatch": authority.issue_cert("other.example"),
    }
    for word, certificate in refused.items():
        heads: list[bytes] = []

        async def handle(stream: trio.abc.Stream, heads: list[bytes] = heads) -> None:
            heads.append(await read_head(stream))

        async with raw_server(handle, tls=server_context(certificate)) as server:
            delivery = await reached_with(server, client_tls)
            await server.wait_empty()
        assert (delivery.answer, delivery.reached, heads) == (None, Reached.TLS, [])
        assert word in str(delivery.error), delivery.error


async def test_memory_of_many_at_once() -> None:
    """A hundred endless heads: each within its own limit, and gone afterwards."""
    transport = TrioTransport()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with raw_server(for_ever(OK + b"X: ", b"x" * 65_536)) as server, open_sender(transport, SMALL) as sender:
        request = Request.get(server.url)
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(lambda: send_request(sender, request, timeout=PATIENT))
        transport.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
