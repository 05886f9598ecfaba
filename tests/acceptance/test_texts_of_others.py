"""
Names and texts of others that would be lines of their own, or steer a terminal: in rows that other programs have
stored, and in what receivers answer.

Invariant: no line of the log, of an error or of the command begins with them, no escape sequence of theirs gets
through, and JSON stays JSON.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import termios
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import trio
from psycopg import sql

from requeuest_trio import Channel, DatabaseUnavailable, JobDead, RequeuestError, migrate, open_requeuest
from tests.acceptance.cli import COMMAND, environment, process, requeuest, running
from tests.engine.probe import QueueProbe
from tests.poolers import direct
from tests.postgres.harness import Conn

MARK = "FORGED"
STEERING = [
    "\n",
    "\r",
    "\r\n",
    "\t",
    "\v",
    "\f",
    "\x1b[2J",
    "\x1b]0;",
    "\x1bc",
    "\x7f",
    "\x85",
    "\x9b2J",
    "\u2028",
    "\u202e",
]
FORGED = "".join(f"{steering}{MARK}" for steering in STEERING)
IN_LATIN_1 = b"\x1b[2J\x85\x9b" + MARK.encode()
LINES = f"{MARK} first\n{MARK} second\n\t{MARK} third"
AS_JSON = json.dumps([["X-Tag", f"a{FORGED}"], [f"X{FORGED}", "b"]])

ANSWERS = {
    b"/reason": b"HTTP/1.1 503 a" + IN_LATIN_1 + b"\r\nContent-Length: 0\r\n\r\n",
    b"/line": b"HTTP/1.1 200 OK\r\n" + MARK.encode() + IN_LATIN_1 + b"\r\n\r\n",
    b"/name": b"HTTP/1.1 200 OK\r\n\r" + MARK.encode() + IN_LATIN_1 + b": x\r\n\r\n",
    b"/none": b"\r" + IN_LATIN_1 + b"\r\n\r\n",
    b"/length": b"HTTP/1.1 200 OK\r\nContent-Length: \r" + IN_LATIN_1 + b"\r\n\r\n",
    b"/moved": b"HTTP/1.1 302 Found\r\nLocation: http://" + IN_LATIN_1 + b"/\r\nContent-Length: 0\r\n\r\n",
    b"/fine": b"HTTP/1.1 200 OK\r\nX-Tag: a%s\r\n%s: b\r\nContent-Length: %d\r\n\r\n%s"
    % (IN_LATIN_1, MARK.encode(), len(LINES), LINES.encode()),
}
"""By the path: what is odd there."""
ACCEPTED = 2
"""So many of them are: a line that is no field is passed over."""


def check(output: str, *, styled: bool = False, quoted: bool = True) -> None:
    """Nothing of others begins a line of this, or steers what shows it, if it is quoted at all.

    On a terminal the command has styles of its own.
    """
    if styled:
        output = re.sub(r"\x1b\[[0-9;]*m", "", output).replace("\r\n", "\n")
    assert not quoted or MARK in output
    steering = [char for char in output if not char.isprintable() and char != "\n"]
    assert steering == [], output
    assert [line for line in output.split("\n") if line.strip().startswith(MARK)] == []


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A receiver that answers as its paths say."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            asked = await stream.receive_some()
            while b"\r\n\r\n" not in asked and (more := await stream.receive_some()):
                asked += more
            if asked:
                await stream.send_all(ANSWERS[asked.split()[1]])

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


INSERT = """
INSERT INTO requeuest.job (id, channel, ordering_key, method, url, headers, body, state, error, finished_at, attempts,
                           timeout, status, response_headers, response_body, response_truncated)
VALUES (%(id)s, %(channel)s, %(key)s, %(method)s, %(url)s, %(headers)s, %(body)s, %(state)s::requeuest.job_state,
        %(error)s, CASE WHEN %(state)s::requeuest.job_state <> 'available' THEN now() END, 1, 'NaN', 200, %(answer)s,
        %(answered)s, %(cut)s)
"""
DEAD, DELIVERED, WAITING = [UUID(int=number) for number in (1, 2, 3)]


async def store(conn: Conn, job_id: UUID, state: str, **columns: object) -> None:
    """A job as another program can store it."""
    is_delivered = state == "succeeded"
    row = {
        "id": job_id, "channel": f"c{FORGED}", "key": f"k{FORGED}{job_id}", "method": f"GET{FORGED}",
        "url": f"http://x.test/{FORGED}", "headers": AS_JSON, "body": LINES.encode(), "state": state,
        "error": f"e{FORGED}", "answer": AS_JSON if is_delivered else None,
        "answered": LINES.encode() if is_delivered else None, "cut": False if is_delivered else None,
    } | columns  # fmt: skip
    await conn.execute(INSERT.encode(), row)


@pytest.fixture
async def forged(probe: QueueProbe) -> None:
    """Jobs, attempts, a process and a channel of others."""
    for job_id, state in ((DEAD, "dead"), (DELIVERED, "succeeded"), (WAITING, "available")):
        await store(probe.connection, job_id, state)
        await probe.connection.execute(
            b"INSERT INTO requeuest.attempt (job_id, number, started_at, duration, reached, error, excerpt) "
            b"VALUES (%s, 1, now(), 'NaN', 'sent', %s, %s)",
            [job_id, f"e{FORGED}", LINES.encode()],
        )
    await probe.connection.execute(
        b"INSERT INTO requeuest.worker (id, lease, host, pid, seen_at) "
        b"VALUES (gen_random_uuid(), '1 s', %s, 1, now() - interval '1 h')",
        [f"h{FORGED}"],
    )
    await probe.connection.execute(b"INSERT INTO requeuest.channel (name) VALUES (%s)", [f"c{FORGED}"])


@pytest.mark.parametrize("arguments", [["jobs"], *(["show", str(job_id)] for job_id in (DEAD, DELIVERED, WAITING))])
async def test_what_is_stored_is_shown_in_lines_of_the_command_s_own(
    probe: QueueProbe, forged: None, arguments: list[str]
) -> None:
    ended = await requeuest(*arguments, dsn=probe.dsn)
    assert (ended.status, ended.err) == (0, "")
    check(ended.out)
    check(await on_a_terminal(probe.dsn, *arguments), styled=True)
    ended = await requeuest(*arguments, "--json", dsn=probe.dsn)
    for line in ended.out.splitlines():
        document = json.loads(line, parse_constant=pytest.fail)
        assert (document["channel"], document["error"]) == (f"c{FORGED}", f"e{FORGED}")
    check(ended.out)


async def on_a_terminal(dsn: str, *arguments: str) -> str:
    """What the command says there, of 300 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 300))
    try:
        variables = environment(dsn) | {"TERM": "xterm"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            variables.pop(name, None)
        ended = await trio.run_process([*COMMAND, *arguments], stdin=theirs, stdout=theirs, env=variables)
        assert ended.returncode == 0
        return os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


async def store_for_delivery(conn: Conn, url: str) -> int:
    """Jobs of which each has forged parts, in a channel of its own: one for each answer, and one for each such part."""
    fine = {"url": f"{url}/fine", "method": "GET", "headers": "[]"}
    rows = [{**fine, "channel": f"{path.decode()}{FORGED}", "url": f"{url}{path.decode()}"} for path in ANSWERS]
    for damaged in fine:
        rows += [{name: value for name, value in fine.items() if name != damaged} | {"channel": f"{damaged}{FORGED}"}]
    for number, row in enumerate(rows, start=10):
        await store(conn, UUID(int=number), "available", timeout=None, **row)
    await conn.execute(b"""UPDATE requeuest.job SET retry = '{"max_attempts": 2}', attempts = 0, timeout = 5""")
    return len(rows)


async def test_a_worker_tells_of_them_in_lines_of_its_own(probe: QueueProbe, url: str) -> None:
    jobs = await store_for_delivery(probe.connection, url)
    async with running("worker", "--all", "--verbose", dsn=probe.dsn) as worker:
        await probe.until_true("SELECT count(*) = %s FROM requeuest.job WHERE finished_at IS NOT NULL", jobs)
        worker.signal(signal.SIGTERM)
        assert await worker.status() == 0
        await worker.wait_to_end()
    assert await probe.states() == {"dead": jobs - ACCEPTED, "succeeded": ACCEPTED}
    check(worker.said)
    assert worker.said.count("job_dead") == jobs - ACCEPTED
    for (job_id,) in await probe.rows("SELECT id FROM requeuest.job"):
        ended = await requeuest("show", str(job_id), dsn=probe.dsn)
        check(ended.out)


async def test_an_error_tells_of_them_in_one_line(probe: QueueProbe) -> None:
    await store(probe.connection, DEAD, "dead")
    async with open_requeuest(probe.dsn, ()) as client:
        with pytest.raises(JobDead) as caught:
            await client.result(DEAD)
    assert str(caught.value).isprintable()
    check("".join(traceback.format_exception(caught.value)))


@contextmanager
def role_named(dsn: str, name: str) -> Iterator[sql.Identifier]:
    role = sql.Identifier(name)
    with psycopg.connect(direct(dsn), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(role))
        try:
            yield role
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(role))


async def test_what_others_call_their_roles_and_triggers_begins_no_line(probe: QueueProbe) -> None:
    """Migrations look at what others have made, and name it."""
    name = f"r{FORGED}".encode()[:60].decode("utf-8", "ignore")
    with role_named(probe.dsn, name) as role:
        await probe.connection.execute(sql.SQL("ALTER TABLE requeuest.attempt OWNER TO {}").format(role))
        with pytest.raises(RequeuestError, match="not this role's alone") as caught:
            await migrate(probe.dsn)
        check("".join(traceback.format_exception(caught.value)))
        ended = await requeuest("migrate", dsn=probe.dsn)
        assert (ended.status, ended.out) == (2, "")
        check(ended.err)


async def test_what_postgresql_says_of_them_begins_no_line(probe: QueueProbe) -> None:
    """It quotes names: here that of a constraint, in an error and in its cause."""
    constraint = sql.Identifier(f"n\r{MARK}\x1b[2J{MARK}")
    await probe.connection.execute(
        sql.SQL("ALTER TABLE requeuest.worker ADD CONSTRAINT {} CHECK (pid < 0) NOT VALID").format(constraint)
    )
    with pytest.raises(RequeuestError, match="violates check constraint") as caught:
        async with open_requeuest(probe.dsn):
            pass
    assert not isinstance(caught.value, DatabaseUnavailable)
    assert str(caught.value).isprintable()
    check("".join(traceback.format_exception(caught.value)))
    ended = await requeuest("jobs", dsn=probe.dsn)
    assert ended.status == 0


async def test_a_file_begins_no_line(probe: QueueProbe, url: str, tmp_path: Path) -> None:
    """Its bad lines are named, and what became of its good ones."""
    bad = [
        {f"f{FORGED}": 1}, {"method": f"m{FORGED}", "url": url}, {"method": "GET", "url": f"u{FORGED}"},
        {"method": "GET", "url": url, "channel": f"c{FORGED}"}, {"method": "GET", "url": url, "ordering_key": FORGED},
        {"method": "GET", "url": url, "headers": {f"h{FORGED}": "x"}}, {"method": "GET", "url": url, "accept": FORGED},
    ]  # fmt: skip
    file = tmp_path / f"name{FORGED.replace('/', '')}"
    file.write_text("\n".join(map(json.dumps, bad)))
    ended = await process("send", str(file), dsn=probe.dsn)
    assert (ended.status, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == len(bad) + 1
    check(ended.err)
    file.write_text("\n".join(json.dumps({"method": "GET", "url": url + path.decode()}) for path in ANSWERS))
    for extra in ([], ["--json"]):
        ended = await process("send", str(file), "--max-attempts", "1", *extra, dsn=probe.dsn)
        assert ended.status == 1
        check(ended.err, quoted=False)
        if extra:
            failed = json.loads(ended.out)["given_up_jobs"]
            assert len(failed) == len(ANSWERS) - ACCEPTED
    assert await probe.states() == {"dead": 2 * (len(ANSWERS) - ACCEPTED), "succeeded": 2 * ACCEPTED}


def test_a_channel_with_settings_has_a_name_that_steers_nothing() -> None:
    """What others have stored can be delivered, but under no new name."""
    assert Channel(f"c{FORGED}").name
    with pytest.raises(RequeuestError, match=r"^channel: must not have line ends, control or bidirectional") as caught:
        Channel(f"c{FORGED}", ordered=True)
    assert str(caught.value).isprintable()
