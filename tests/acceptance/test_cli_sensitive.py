"""What the user names as sensitive is hidden in all that the command shows, and goes to no other origin."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from requeuest_trio import Request, open_requeuest
from requeuest_trio.cli.send import _resuming
from requeuest_trio.testing import Receiver, Reply, open_receiver
from tests.acceptance.cli import invoke, requeuest, running

NAMED = ("--sensitive", "x-TENANT", "--sensitive", "tenant", "--sensitive", "user-agent")
SECRET = "geheim"


@pytest.fixture
async def job(migrated_dsn: str, receiver: Receiver) -> UUID:
    """One whose request, answer and error have a secret under a name of its own."""
    reply = Reply(302, (("X-Tenant", SECRET), ("Location", f"/y?tenant={SECRET}")))
    receiver.decide = lambda _: reply
    async with open_requeuest(migrated_dsn, ["mail"]) as client:
        request = Request.get(
            f"{receiver.url}/x?tenant={SECRET}", headers={"X-Tenant": SECRET, "User-Agent": SECRET}, accept=302
        )
        job_id = await client.spawn("mail", request)
        await client.wait(job_id)
        await client.spawn("later", request, delay=1_000)
        async with client.transaction() as connection:
            error = f"could not read https://h/y?tenant={SECRET}"
            await connection.execute("UPDATE requeuest.job SET error = %s", [error])
            await connection.execute("UPDATE requeuest.attempt SET error = %s", [error])
    return job_id


@pytest.mark.parametrize("extra", [(), ("--json",)])
@pytest.mark.parametrize("by", ["option", "variable"])
async def test_it_is_hidden_by_jobs_and_show(migrated_dsn: str, job: UUID, extra: tuple[str, ...], by: str) -> None:
    for arguments in (("jobs",), ("show", str(job))):
        plain = await requeuest(*arguments, *extra, dsn=migrated_dsn)
        assert SECRET in plain.out
        if by == "option":
            ended = await requeuest(*arguments, *NAMED, *extra, dsn=migrated_dsn)
        else:
            ended = await requeuest(
                *arguments, *extra, dsn=migrated_dsn, variables={"REQUEUEST_SENSITIVE": " ".join(NAMED[1::2])}
            )
        assert (ended.status, ended.err) == (0, "")
        assert SECRET not in ended.out
        assert ended.out.count("***") >= 2


@asynccontextmanager
async def two_origins() -> AsyncIterator[tuple[Receiver, Receiver]]:
    """The first leads to the second."""
    async with open_receiver() as first, open_receiver() as second:
        first.decide = lambda _: Reply(302, (("Location", second.url),))
        second.decide = lambda _: Reply(500)
        yield first, second


def went_along(receiver: Receiver) -> bool:
    return any(SECRET in str(arrival.headers) for arrival in receiver.arrivals)


@pytest.mark.parametrize("extra", [(), ("--json",)])
async def test_send_hides_it_and_keeps_it_from_other_origins(migrated_dsn: str, extra: tuple[str, ...]) -> None:
    async with two_origins() as (first, second):
        line = {
            "method": "GET", "url": f"{first.url}/?tenant={SECRET}", "headers": {"User-Agent": SECRET},
            "follow_redirects": True,
        }  # fmt: skip
        arguments = ("send", "-", "--max-attempts", "1", *extra)
        await requeuest(*arguments, dsn=migrated_dsn, stdin=json.dumps(line))
        assert went_along(second)
        second.arrivals.clear()
        ended = await requeuest(*arguments, *NAMED, dsn=migrated_dsn, stdin=json.dumps(line))
    assert ended.status == 1
    assert "?tenant=***" in ended.err
    assert SECRET not in ended.out + ended.err
    assert len(second.arrivals) == 1
    assert not went_along(second)


async def test_worker_keeps_it_from_other_origins(migrated_dsn: str) -> None:
    async with two_origins() as (first, second):
        async with open_requeuest(migrated_dsn, ()) as client:
            request = Request.get(first.url, headers={"User-Agent": SECRET}, follow_redirects=True)
            await client.spawn("mail", request)
        async with running("worker", "--all", *NAMED, dsn=migrated_dsn) as worker:
            await second.wait_for(1)
            worker.signal(signal.SIGTERM)
            assert await worker.status() == 0
        assert went_along(first)
        assert not went_along(second)


def test_the_command_to_paste_goes_on_hiding() -> None:
    assert _resuming([], "postgresql:///app", "requeuest", {"b c", "a"}).endswith(" --sensitive a --sensitive 'b c'")


def test_the_variable_is_told_of() -> None:
    for command in ("jobs", "show", "send", "worker"):
        assert "REQUEUEST_SENSITIVE" in invoke(command, "--help").out
