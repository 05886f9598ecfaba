"""Through a client of the caller's, no job sees anything of another, and nothing is asked for that is not decoded."""

from typing import Any

import httpx
import httpx2
import pytest

from requeuest_trio import Request
from requeuest_trio._http.sender import open_sender
from requeuest_trio._http.wire.codings import advertised
from requeuest_trio.testing import Receiver, Reply
from tests.http.hostile import SMALL, send


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_no_cookie_of_one_job_is_sent_with_another(receiver: Receiver, library: Any) -> None:
    receiver.script(Reply(200, headers=(("Set-Cookie", "session=of-a; Path=/"),)), Reply(200), Reply(200))
    client = library.AsyncClient(cookies={"own": "of-the-caller"}, trust_env=False)
    async with client, open_sender(client, SMALL) as sender:
        await send(sender, receiver.url)
        await send(sender, receiver.url)
        assert [arrival.header("cookie") for arrival in receiver.arrivals] == ["own=of-the-caller"] * 2
        # And the client is as it was: it has no cookie of a job, and can be used.
        assert dict(client.cookies) == {"own": "of-the-caller"}
        assert (await client.get(receiver.url)).status_code == 200


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_client_asks_for_no_coding_that_is_not_decoded(receiver: Receiver, library: Any) -> None:
    client = library.AsyncClient(headers={"Accept-Encoding": "gzip, br, zstd"}, trust_env=False)
    async with client, open_sender(client, SMALL) as sender:
        await send(sender, receiver.url)
        await send(sender, receiver.url, headers={"Accept-Encoding": "gzip, deflate, br, zstd"})
    assert [arrival.header("accept-encoding") for arrival in receiver.arrivals] == ["identity", "gzip, deflate"]


async def test_a_request_made_by_a_client_asks_for_none_either(receiver: Receiver) -> None:
    async with httpx2.AsyncClient(headers={"Accept-Encoding": "br, gzip"}) as client:
        request = Request.from_httpx(client.build_request("GET", receiver.url))
    async with open_sender(None, SMALL) as sender:
        await send(sender, receiver.url, headers=request.headers)
    assert receiver.arrivals[0].header("accept-encoding") == "gzip"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("br", "identity"), ("", "identity"), ("*", "identity"), ("GZIP;q=0.5, br;q=1", "GZIP;q=0.5"),
        ("identity, zstd", "identity"), ("x-gzip,deflate", "x-gzip, deflate"), (",,;,", "identity"),
    ],
)  # fmt: skip
def test_advertised(given: str, sent: str) -> None:
    assert advertised(given) == sent
