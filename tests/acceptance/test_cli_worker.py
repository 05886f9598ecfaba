"""`requeuest worker`: it waits for its database, delivers, and stops as it is told."""

from __future__ import annotations

import re
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio import DatabaseUnavailable, JobState, Request, open_requeuest
from requeuest_trio.cli.refusals import is_refusal
from requeuest_trio.embedded import open_embedded
from requeuest_trio.testing import open_receiver
from tests.acceptance.cli import invoke, open_gate, requeuest, running
from tests.servers import TestServer, temporary_home

GREETING = "Ctrl-C or SIGTERM stops"


async def test_it_delivers_its_channels_and_no_other(migrated_dsn: str) -> None:
    async with open_receiver() as receiver, open_requeuest(migrated_dsn, ()) as client:
        other = await client.spawn("other", Request.get(receiver.url))
        async with running("worker", "a", "b", dsn=migrated_dsn) as worker:
            await worker.wait_to_say("delivering channels a, b;")
            for channel in ("a", "b"):
                response = await client.spawn_returning(channel, Request.get(receiver.url))
                assert response.status_code == 200
            worker.signal(signal.SIGTERM)
            assert await worker.status() == 0
        job = await client.job(other)
    assert job is not None
    assert (job.state, job.attempts) == (JobState.AVAILABLE, 0)


async def test_all_channels(migrated_dsn: str) -> None:
    async with (
        open_receiver() as receiver,
        open_requeuest(migrated_dsn, ()) as client,
        running("worker", "--all", "--verbose", dsn=migrated_dsn) as worker,
    ):
        await worker.wait_to_say("delivering all channels")
        await client.spawn_returning("some", Request.get(receiver.url))
        await worker.wait_to_say("debug requeuest_trio.attempt: attempt job=")
        worker.signal(signal.SIGINT)
        assert await worker.status() == 0


async def test_the_first_signal_lets_it_finish(migrated_dsn: str) -> None:
    async with open_gate() as gate, open_requeuest(migrated_dsn, ()) as client:
        job_id = await client.spawn("a", Request.get(gate.url))
        async with running("worker", "a", "--grace", "60", dsn=migrated_dsn) as worker:
            await gate.arrived.wait()
            worker.signal(signal.SIGTERM)
            await worker.wait_to_say("SIGTERM: finishing the requests under way, for 60 s at most; once more to stop")
            gate.opened.set()
            assert await worker.status() == 0
            await worker.wait_to_say("stopped")
        job = await client.job(job_id)
    assert job is not None
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)


async def test_the_second_signal_ends_it_at_once(migrated_dsn: str) -> None:
    async with open_gate() as gate, open_requeuest(migrated_dsn, ()) as client:
        job_id = await client.spawn("a", Request.get(gate.url))
        async with running("worker", "a", "--grace", "600", dsn=migrated_dsn) as worker:
            await gate.arrived.wait()
            worker.signal(signal.SIGTERM)
            await worker.wait_to_say("once more to stop at once")
            worker.signal(signal.SIGINT)
            assert await worker.status() == 130
            await worker.wait_to_say("SIGINT: stopping at once; what is unfinished goes back to the queue")
        job = await client.job(job_id)
    assert job is not None
    assert (job.state, job.attempts) == (JobState.AVAILABLE, 0)


async def test_what_the_database_refuses_is_not_tried_for_ever(server: TestServer) -> None:
    for dsn in (server.dsn("no_such_database"), f"{server.dsn()} user=no_such_user"):
        ended = await requeuest("worker", "--all", dsn=dsn)
        assert (ended.status, ended.out) == (2, "")
        [line] = ended.err.splitlines()
        assert "does not exist" in line
        assert line.endswith("; waiting will not help")


async def test_it_waits_for_its_database() -> None:
    with temporary_home() as place:
        home = f"host={place}/socket user=postgres dbname=postgres"
        async with running("worker", "--all", "--migrate", dsn=home) as worker:
            await worker.wait_to_say("trying again in", times=2)
            async with open_embedded(place):
                await worker.wait_to_say(GREETING)
                worker.signal(signal.SIGTERM)
                assert await worker.status() == 0
    assert "Traceback" not in worker.said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('FATAL:  role "nobody" does not exist', True),
        ('FATAL:  password authentication failed for user "a"', True),
        ("fe_sendauth: no password supplied", True),
        ("connection refused", False),
        ("the database system is starting up", False),
    ],
)
async def test_what_waiting_will_not_help(text: str, expected: bool) -> None:
    assert await is_refusal(DatabaseUnavailable(f"PostgreSQL is not available: {text}"), "") is expected


@pytest.mark.skipif(pq.version() < 170000, reason="libpq tells no SQLSTATE of a refused connection")
@pytest.mark.parametrize(
    ("severity", "state", "words"),
    [
        ("FATAL", "28P01", "Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen"),
        ("ВАЖНО", "28000", "роль «app» не существует"),
        ("FATAL", "3D000", "la base de données « app » n'existe pas"),
    ],
)
async def test_what_the_database_refuses_in_its_own_language(severity: str, state: str, words: str) -> None:
    async with open_refusing_server(severity, state, words) as dsn:
        ended = await requeuest("worker", "--all", dsn=dsn)
    assert (ended.status, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert words in line
    assert "waiting will not help" in line


@pytest.mark.skipif(pq.version() < 170000, reason="libpq tells no SQLSTATE of a refused connection")
async def test_what_one_of_several_hosts_refuses_in_its_own_language() -> None:
    async with (
        open_refusing_server("FATAL", "57P03", "das Datenbanksystem startet") as starting,
        open_refusing_server("FATAL", "28P01", "Passwort falsch") as refusing,
    ):
        params = [conninfo_to_dict(dsn) for dsn in (starting, refusing)]
        for ports in ("1,{0},{1}", "{1},{0},1", "{0},1,{1}"):
            port = ports.format(*(each["port"] for each in params))
            dsn = make_conninfo(starting, host="127.0.0.1,127.0.0.1,127.0.0.1", port=port)
            ended = await requeuest("worker", "--all", dsn=dsn)
            assert (ended.status, ended.out) == (2, "")
            [line] = ended.err.splitlines()
            assert "Passwort falsch" in line
            assert "refused" in line
            assert "waiting will not help" in line


async def test_what_one_of_several_hosts_refuses_is_not_tried_for_ever(server: TestServer) -> None:
    host = str(conninfo_to_dict(server.dsn())["host"])
    port = conninfo_to_dict(server.dsn())["port"]
    for hosts, ports in ((f"{host},127.0.0.1", f"{port},1"), (f"127.0.0.1,{host}", f"1,{port}")):
        dsn = make_conninfo(server.dsn(), host=hosts, port=ports, user="nobody_here")
        ended = await requeuest("worker", "--all", dsn=dsn)
        assert (ended.status, ended.out) == (2, "")
        [line] = ended.err.splitlines()
        assert re.search(
            r'"nobody_here" does not exist; create the role .*; elsewhere: .*refused; waiting will not', line
        )


async def test_what_will_pass_is_waited_for_in_every_language() -> None:
    async with (
        open_refusing_server("FATAL", "57P03", "das Datenbanksystem startet") as dsn,
        running("worker", "--all", dsn=dsn) as worker,
    ):
        await worker.wait_to_say("trying again in", times=2)
        worker.signal(signal.SIGTERM)
        assert await worker.status() == 0


@asynccontextmanager
async def open_refusing_server(severity: str, state: str, words: str) -> AsyncIterator[str]:
    """A server that speaks as much of PostgreSQL's protocol as it takes to refuse every connection; its DSN."""
    fields = {"S": severity, "V": "FATAL", "C": state, "M": words}
    error = b"".join(f"{field}{text}".encode() + b"\0" for field, text in fields.items()) + b"\0"

    async def refuse(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()  # the start-up packet
            await stream.send_all(b"E" + struct.pack("!i", len(error) + 4) + error)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
        yield f"host=127.0.0.1 port={listener.socket.getsockname()[1]} user=app dbname=app sslmode=disable"
        nursery.cancel_scope.cancel()


async def test_a_signal_while_it_waits(tmp_path: Path) -> None:
    async with running("worker", "--all", dsn=f"host={tmp_path} user=postgres") as worker:
        await worker.wait_to_say("trying again in")
        worker.signal(signal.SIGTERM)
        assert await worker.status() == 0


async def test_a_missing_schema_is_not_waited_for(dsn: str) -> None:
    ended = await requeuest("worker", "--all", dsn=dsn)
    assert ended.status == 2
    assert "run: requeuest migrate --dsn" in ended.err
    async with running("worker", "--all", "--migrate", dsn=dsn) as worker:
        await worker.wait_to_say(GREETING)
        worker.signal(signal.SIGTERM)
        assert await worker.status() == 0


@pytest.mark.parametrize("arguments", [(), ("a", "--all")])
def test_which_channels(arguments: tuple[str, ...]) -> None:
    ended = invoke("worker", *arguments, "--dsn", "postgresql:///x")
    assert ended.status == 2
    assert "name the channels to deliver, or say --all" in ended.err


def test_a_channel_that_can_be_none() -> None:
    ended = invoke("worker", "", "--dsn", "postgresql:///x")
    assert (ended.status, ended.err) == (2, "requeuest: channel: must have 1 to 200 characters, not 0\n")
