"""
A pooler loses its connection to the server at a commit, and tells in an error of its own.

What could go wrong: the server's answer and the pooler's error come for one question, for which psycopg has no
SQLSTATE, and an outage is taken for a refusal. Then an answer is thrown away, or a caller gets an error that says
nothing.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from requeuest_trio import Client, Request, open_requeuest
from requeuest_trio.testing import Receiver, Reply
from tests.engine.probe import QueueProbe
from tests.faults.outages import logged
from tests.poolers import OWN, PGBOUNCER, direct, is_installed, running_pooler
from tests.postgres_messages import Conversation, Loss, When, committing
from tests.proxy import Proxy, open_proxy
from tests.servers import TestServer

NO_PGBOUNCER = pytest.mark.skipif(not is_installed(), reason="PgBouncer is not installed")
KINDS = [OWN, pytest.param(PGBOUNCER, marks=NO_PGBOUNCER)]
LOSSES: list[Callable[[Proxy, When], Loss]] = [
    Proxy.drop_next_request,
    Proxy.drop_next_reply,
    Proxy.cut_next_reply_short,
]
PATIENCE = 20.0


@asynccontextmanager
async def _pooled(server: TestServer, dsn: str, kind: str) -> AsyncIterator[tuple[Client, Proxy]]:
    async with open_proxy(dsn) as proxy:
        parts = conninfo_to_dict(proxy.dsn)
        with running_pooler(server, kind, way=(str(parts["host"]), int(str(parts["port"])))) as pooler:
            async with open_requeuest(pooler.through(dsn), poll_interval=0.1) as client:
                yield client, proxy


def _storing_one(conversation: Conversation) -> bool:
    return any(committing(name)(conversation) for name in ("spawn_one", "spawn_claimed", "spawn"))


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("kind", KINDS)
async def test_no_answer_and_no_job_is_lost_with_a_commit(
    server: TestServer, probe: QueueProbe, receiver: Receiver, kind: str, lose: Callable[[Proxy, When], Loss]
) -> None:
    receiver.decide = lambda arrival: Reply(body=b"answer to " + arrival.body)
    commits: dict[bytes, When] = {
        b"stored": _storing_one,
        b"claimed": committing("claim"),
        b"recorded": committing("record"),
    }
    with logged() as log:
        async with _pooled(server, direct(probe.dsn), kind) as (client, proxy):
            for name, when in commits.items():
                loss = lose(proxy, when)
                # Due a moment later, it goes by a claim, and not with the commit that stores it.
                delay = 0.05 if name == b"claimed" else 0.0
                with trio.fail_after(PATIENCE):
                    for _ in range(3):
                        job_id = await client.spawn("a", Request.post(receiver.url, content=name), delay=delay)
                        assert (await client.result(job_id)).content == b"answer to " + name
                    await loss.happened.wait()
    assert not log.fields("outcome_refused")
    assert await probe.states() == {"succeeded": 9}
    assert len(receiver.arrivals) == 9
