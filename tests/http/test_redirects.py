"""Redirects are followed only when asked for, and then by the rules of RFC 9110 section 15.4 and of common sense."""

import ssl
from itertools import product
from typing import Any

import httpx
import httpx2
import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio import Config, Reached
from requeuest_trio._http.redirects import Hop, next_hop
from requeuest_trio._http.sender import Sender, open_sender
from requeuest_trio._model.request import METHODS
from requeuest_trio.testing import Receiver, Reply, open_receiver
from tests.http.hostile import SMALL, raw_server, says, send, until_left

SECRETS = (
    ("Authorization", "Bearer s3cr3t"),
    ("cookie", "session=s3cr3t"),
    ("X-Api-Key", "s3cr3t"),
    ("X-Hub-Signature", "s3cr3t"),
)
ORDINARY = (("Accept", "text/plain"), ("Idempotency-Key", "7"))


def redirect(location: str, status: int = 302) -> Reply:
    return Reply(status, headers=(("Location", location),), body=b"elsewhere")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_not_followed_unless_asked(sender: Sender, receiver: Receiver, status: int) -> None:
    receiver.script(redirect("/there", status))
    delivery = await send(sender, receiver.url)
    assert delivery.answer is not None
    assert (delivery.answer.status, delivery.answer.body) == (status, b"elsewhere")
    assert len(receiver.arrivals) == 1


@pytest.mark.parametrize(("status", "method"), list(product([301, 302, 303, 307, 308], sorted(METHODS))))
async def test_method_and_body(sender: Sender, receiver: Receiver, status: int, method: str) -> None:
    receiver.script(redirect("/there?x=1", status))
    headers = {"Content-Type": "text/plain", "Content-Language": "en", "X-A": "b"}
    await send(sender, receiver.url, method=method, headers=headers, body=b"body", follow_redirects=True)
    _, second = receiver.arrivals
    becomes_get = (status == 303 and method != "HEAD") or (status in {301, 302} and method == "POST")
    assert second.target == "/there?x=1"
    assert second.header("x-a") == "b"
    if becomes_get:
        assert (second.method, second.body) == ("GET", b"")
        assert not [name for name, _ in second.headers if name.lower().startswith("content-")]
    else:
        assert (second.method, second.body, second.header("content-type")) == (method, b"body", "text/plain")


async def test_same_origin_keeps_credentials(sender: Sender, receiver: Receiver) -> None:
    receiver.script(redirect(receiver.url + "/there"))
    await send(sender, receiver.url, headers=SECRETS + ORDINARY, follow_redirects=True)
    assert receiver.arrivals[1].headers[1:7] == SECRETS + ORDINARY


async def test_other_origin_is_shown_no_credentials_even_after_coming_back(sender: Sender, receiver: Receiver) -> None:
    """What has once left the origin is steered by strangers."""
    async with open_receiver() as other:
        receiver.script(redirect(other.url + "/b"))
        other.script(redirect(receiver.url + "/c"))
        delivery = await send(sender, receiver.url + "/a", headers=SECRETS + ORDINARY, follow_redirects=True)
    assert delivery.answer is not None
    for arrival in (*other.arrivals, receiver.arrivals[1]):
        assert "s3cr3t" not in repr(arrival.headers)
        assert (arrival.header("accept"), arrival.header("idempotency-key")) == ("text/plain", "7")


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_credentials_of_a_client_stay_at_home_too(receiver: Receiver, library: Any) -> None:
    client = library.AsyncClient(
        auth=("user", "s3cr3t"), headers={"X-Api-Key": "s3cr3t", "X-Team": "billing"}, trust_env=False
    )
    async with client, open_receiver() as other, open_sender(client, SMALL) as sender:
        receiver.script(redirect("/b"), redirect(other.url + "/c"))
        await send(sender, receiver.url + "/a", follow_redirects=True)
    assert [arrival.header("x-api-key") for arrival in receiver.arrivals] == ["s3cr3t", "s3cr3t"]
    assert all(arrival.header("authorization") for arrival in receiver.arrivals)
    [arrival] = other.arrivals
    assert (arrival.header("x-api-key"), arrival.header("authorization")) == (None, None)
    assert arrival.header("x-team") is None


UNUSUAL = (("AccessKey", "s3cr3t"), ("X-Authentication", "s3cr3t"), ("X-Sig", "s3cr3t"), ("X-HMAC-A", "s3cr3t"),
           ("X-Custom", "s3cr3t"))  # fmt: skip


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_only_harmless_fields_go_to_another_origin(sender: Sender, receiver: Receiver, status: int) -> None:
    async with open_receiver() as other:
        receiver.script(redirect(other.url + "/b", status))
        await send(sender, receiver.url, headers=SECRETS + UNUSUAL + ORDINARY, follow_redirects=True)
    [arrival] = other.arrivals
    assert "s3cr3t" not in repr(arrival.headers)
    assert (arrival.header("accept"), arrival.header("idempotency-key")) == ("text/plain", "7")


def test_a_harmless_field_that_is_named_stays_at_home() -> None:
    hop = Hop("GET", "https://h/", (("User-Agent", "s3cr3t"), ("Accept", "a/b")), b"")
    following = next_hop(hop, 302, (("Location", "https://i/"),), sensitive={"user-agent"})
    assert isinstance(following, Hop)
    assert following.headers == (("Accept", "a/b"),)


def test_so_does_an_added_field_that_is_named() -> None:
    hop = Hop("GET", "https://h/", (), b"", (("Idempotency-Key", "s3cr3t"),))
    for location, sensitive, added in (
        ("https://i/", {"idempotency-key"}, ()),
        ("https://i/", set[str](), hop.added),
        ("/there", {"idempotency-key"}, hop.added),
    ):
        following = next_hop(hop, 302, (("Location", location),), sensitive=sensitive)
        assert isinstance(following, Hop)
        assert following.added == added


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_so_does_a_harmless_field_of_a_client_that_is_named(receiver: Receiver, library: Any) -> None:
    config = Config(sensitive=["User-Agent"])
    client = library.AsyncClient(headers={"User-Agent": "s3cr3t"}, trust_env=False)
    async with client, open_receiver() as other, open_sender(client, config) as sender:
        receiver.script(redirect(other.url))
        await send(sender, receiver.url, follow_redirects=True)
    assert receiver.arrivals[0].header("user-agent") == "s3cr3t"
    assert "s3cr3t" not in repr(other.arrivals[0].headers)


@pytest.mark.parametrize("status", [307, 308])
async def test_a_body_goes_to_no_other_origin(sender: Sender, receiver: Receiver, status: int) -> None:
    async with open_receiver() as other:
        receiver.script(redirect(other.url + "/b", status))
        delivery = await send(sender, receiver.url, method="POST", body=b"s3cr3t", follow_redirects=True)
    assert other.arrivals == []
    assert delivery.answer is not None
    assert (delivery.answer.status, delivery.error) == (status, "the redirect to another origin would carry the body")


async def test_a_body_goes_where_it_may(receiver: Receiver) -> None:
    async with open_receiver() as other:
        config = Config(redirect_bodies_to=[other.url])
        async with open_sender(None, config) as sender:
            receiver.script(redirect(other.url + "/b", 307))
            delivery = await send(sender, receiver.url, method="POST", body=b"body", follow_redirects=True)
    [arrival] = other.arrivals
    assert (arrival.method, arrival.body) == ("POST", b"body")
    assert delivery.answer is not None
    assert delivery.answer.url == other.url + "/b"


async def test_https_is_not_left_for_http(receiver: Receiver, authority: trustme.CA) -> None:
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    answer = f"HTTP/1.1 302 Found\r\nLocation: {receiver.url}\r\nContent-Length: 0\r\n\r\n".encode()
    async with (
        httpx2.AsyncHTTPTransport(verify=client_side, trust_env=False) as transport,
        open_sender(transport, SMALL) as sender,
        raw_server(says(answer), tls=server_side) as server,
    ):
        delivery = await send(sender, server.url, follow_redirects=True)
    assert delivery.answer is not None
    assert delivery.answer.status == 302
    assert receiver.arrivals == []


async def test_there_is_a_limit(sender: Sender, receiver: Receiver) -> None:
    receiver.decide = lambda arrival: redirect(arrival.target + "x")
    delivery = await send(sender, receiver.url, follow_redirects=True)
    assert delivery.answer is not None
    assert (delivery.answer.status, delivery.answer.body, delivery.reached) == (302, b"elsewhere", Reached.RESPONSE)
    assert delivery.error == f"more than {SMALL.max_redirects} redirects"
    assert len(receiver.arrivals) == SMALL.max_redirects + 1


async def test_body_of_a_redirect_is_not_read(sender: Sender, receiver: Receiver) -> None:
    async def endless(stream: trio.abc.Stream) -> None:
        while True:
            await stream.send_all(b"x" * 65_536)

    answer = f"HTTP/1.1 302 Found\r\nLocation: {receiver.url}\r\n\r\n".encode()
    async with raw_server(says(answer, then=endless)) as server:
        delivery = await send(sender, server.url, follow_redirects=True)
        await server.wait_empty()
    assert delivery.answer is not None
    assert delivery.answer.body == b"ok"


async def test_failure_after_a_redirect_is_not_taken_for_nothing_sent(sender: Sender, receiver: Receiver) -> None:
    """The first receiver has had the request."""
    receiver.script(redirect("http://nosuch.invalid/", 307))
    delivery = await send(sender, receiver.url, method="POST", follow_redirects=True)
    assert (delivery.answer, delivery.reached) == (None, Reached.SENT)


async def test_deadline_is_for_all_hops_together(sender: Sender, receiver: Receiver) -> None:
    async with raw_server(until_left) as server:
        receiver.script(redirect(server.url))
        delivery = await send(sender, receiver.url, timeout=0.3, follow_redirects=True)
    assert (delivery.answer, delivery.error) == (None, "timed out after 0.3 s")


# --- the decision alone -----------------------------------------------------------------------------------------------

HERE = Hop("GET", "https://h/a/b?c=d", (), b"")


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/x", "https://h/x"),
        ("x", "https://h/a/x"),
        ("?y", "https://h/a/b?y"),
        ("", "https://h/a/b?c=d"),
        ("../../../x", "https://h/x"),
        ("//other/x", "https://other/x"),
        ("https://other:8443/x#part", "https://other:8443/x"),
        ("https://user:pass@other/x", "https://other/x"),
        ("HTTPS://Other/", "https://other/"),
        ("/\xe9 b", "https://h/%C3%A9%20b"),
        ("/caf\xc3\xa9%20x", "https://h/caf%C3%A9%20x"),
        ("/\xe4\xb8\xad?q=\xc3\xa9&r=%41%e9", "https://h/%E4%B8%AD?q=%C3%A9&r=%41%e9"),
    ],
)
def test_location(location: str, url: str) -> None:
    following = next_hop(HERE, 302, (("location", location),))
    assert isinstance(following, Hop)
    assert following.url == url


@pytest.mark.parametrize(
    "location",
    ["http://h/x", "ftp://h/x", "javascript:alert(1)", "data:,x", "file:///etc/passwd", "http://[::1", "https://h:x/",
     "https://h:99999/", "https://h:0/",  "/a\x00b", "/a\x7fb", "https://a..b/",
     "https://" + "a" * 70 + "/",
     "/" + "x" * 70_000, "https://127.0.0.1\\@h/", "/\\h/"],
)  # fmt: skip
def test_location_that_leads_nowhere_is_an_answer(location: str) -> None:
    assert next_hop(HERE, 302, (("Location", location),)) is None


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 399, 404])
def test_only_five_statuses_are_redirects(status: int) -> None:
    assert next_hop(HERE, status, (("Location", "/x"),)) is None


def test_redirect_without_a_location_is_an_answer() -> None:
    assert next_hop(HERE, 302, ()) is None


@given(st.text(max_size=30) | st.text("/:?#@[]%.h\\ \t1", max_size=12))
def test_any_location_is_followed_or_not(location: str) -> None:
    following = next_hop(HERE, 302, (("Location", location),))
    assert following is None or (isinstance(following, Hop) and following.url.startswith("https://"))
