"""A sender of the library's own, and certificates."""

from collections.abc import AsyncIterator

import pytest
import trustme

from requeuest_trio._http.sender import Sender, open_sender
from requeuest_trio.testing import Receiver, open_receiver
from tests.http.hostile import SMALL


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    """The sender that a runner has when it was given nothing else."""
    async with open_sender(None, SMALL) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that does what it is told."""
    async with open_receiver() as opened:
        yield opened


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nobody trusts."""
    return trustme.CA()
