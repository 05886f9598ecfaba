"""A sender of the library's own, and certificates."""

import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from requeuest_trio._http.sender import Sender, open_sender
from tests.http.hostile import SMALL


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    """The sender that a runner has when it was given nothing else."""
    async with open_sender(None, SMALL) as opened:
        yield opened


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nobody trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """What a server on this machine proves itself with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """Trusts that authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    authority.configure_trust(context)
    return context
