"""`requeuest send`: a file is delivered whole, or refused whole, or left in the queue."""

import base64
import json
import signal
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from requeuest_trio import JobState, Stats, open_requeuest
from requeuest_trio.cli.request_file import read_requests
from requeuest_trio.cli.tally import ChannelCount, Outcome, Stored, Tally
from requeuest_trio.testing import Receiver, Reply, open_receiver
from tests.acceptance.cli import invoke, open_gate, process, requeuest, running


async def queue_of(dsn: str) -> Stats:
    async with open_requeuest(dsn, ()) as client:
        return await client.stats()


def lines(*requests: object) -> str:
    return "".join(json.dumps(request) + "\n" for request in requests)


def posts(receiver: Receiver, number: int) -> str:
    return lines(*({"method": "POST", "url": f"{receiver.url}/{i}", "json": i} for i in range(number)))


async def test_a_file_is_delivered(migrated_dsn: str, tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        body = bytes(range(256))
        file = tmp_path / "requests.jsonl"
        file.write_text(
            lines(
                {"method": "PUT", "url": f"{receiver.url}/b?q=%20", "body_base64": base64.b64encode(body).decode()},
                {"method": "GET", "url": f"{receiver.url}/c", "headers": [["X-T", "1"], ["X-T", "2"]], "channel": "c"},
            )
        )
        receiver.script(Reply(503), target="/c")
        ended = await process("send", str(file), dsn=migrated_dsn)
    assert ended.status == 0, ended.err
    assert ended.out.split()[:8] == ["channel", "requests", "delivered", "given", "up", "attempts", "p50", "p95"]
    assert ["all", "2", "2", "0", "3"] in [line.split()[:5] for line in ended.out.splitlines()]
    assert "\x1b" not in ended.out + ended.err
    assert "0 of 2 delivered" in ended.err
    [put] = [arrival for arrival in receiver.arrivals if arrival.method == "PUT"]
    assert (put.target, put.body) == ("/b?q=%20", body)
    gets = [arrival for arrival in receiver.arrivals if arrival.method == "GET"]
    assert [[value for name, value in get.headers if name == "X-T"] for get in gets] == [["1", "2"]] * 2


async def test_lines_with_an_ordering_key_arrive_in_their_order(migrated_dsn: str) -> None:
    async with open_receiver() as receiver:
        receiver.script(Reply(503), Reply(200), Reply(503))
        requests = [{"method": "POST", "url": f"{receiver.url}/{i}", "ordering_key": "k"} for i in range(4)]
        ended = await requeuest("send", "-", dsn=migrated_dsn, stdin=lines(*requests))
    assert ended.status == 0, ended.err
    assert [arrival.target for arrival in receiver.arrivals] == ["/0", "/0", "/1", "/1", "/2", "/3"]


async def test_a_bad_line_is_named_and_nothing_is_stored(migrated_dsn: str, tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        file = tmp_path / "requests.jsonl"
        file.write_text(posts(receiver, 2) + '\n{"method": "GET"}\n{"method": "GET", "url": "nowhere"}\n')
        ended = await requeuest("send", str(file), dsn=migrated_dsn)
        assert receiver.arrivals == []
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        f"requeuest: {file}, line 4: url: is missing",
        f"requeuest: {file}, line 5: url: must be absolute and http or https, and have a host",
        "requeuest: nothing was stored or sent",
    ]
    assert (await queue_of(migrated_dsn)).channels == {}


async def test_what_is_given_up_is_named_and_fails_the_command(migrated_dsn: str) -> None:
    async with open_receiver() as receiver:
        receiver.script(Reply(500), target="/1?token=geheim")
        requests = [{"method": "GET", "url": f"{receiver.url}/{i}?token=geheim"} for i in range(2)]
        ended = await requeuest("send", "-", "--max-attempts", "1", dsn=migrated_dsn, stdin=lines(*requests))
    assert ended.status == 1
    assert f"line 2: GET {receiver.url}/1?token=*** is dead after 1 attempt(s): status 500 is not accepted" in ended.err
    assert "geheim" not in ended.out + ended.err
    assert ["default", "2", "1", "1", "2"] in [line.split()[:5] for line in ended.out.splitlines()]


async def test_json(migrated_dsn: str) -> None:
    async with open_receiver() as receiver:
        receiver.script(Reply(404), target="/1")
        stdin = posts(receiver, 3)
        ended = await requeuest("send", "-", "--json", "--max-attempts", "1", dsn=migrated_dsn, stdin=stdin)
    assert ended.status == 1
    document = json.loads(ended.out)
    figures = ("requests", "delivered", "given_up", "attempts", "unfinished")
    assert [document[name] for name in figures] == [3, 2, 1, 3, 0]
    assert document["channels"]["default"]["delivered"] == 2
    assert document["latency"]["p50"] <= document["latency"]["p95"] <= document["latency"]["max"]
    [given_up] = document["given_up_jobs"]
    assert (given_up["line"], given_up["state"], given_up["status"]) == (2, "dead", 404)


async def test_it_migrates_if_asked_and_says_how_if_not(dsn: str) -> None:
    async with open_receiver() as receiver:
        stdin = posts(receiver, 1)
        refused = await requeuest("send", "-", dsn=dsn, stdin=stdin)
        assert (refused.status, refused.out, receiver.arrivals) == (2, "", [])
        [line] = refused.err.splitlines()
        assert "the tables in schema 'requeuest' are missing; run: requeuest migrate --dsn" in line
        done = await requeuest("send", "-", "--migrate", "--channel", "mail", dsn=dsn, stdin=stdin)
    assert done.status == 0, done.err
    assert (await queue_of(dsn)).channels == {"mail": {JobState.SUCCEEDED: 1}}


async def test_no_requests(migrated_dsn: str) -> None:
    ended = await requeuest("send", "-", dsn=migrated_dsn, stdin="\n")
    assert (ended.status, ended.out) == (0, "")
    assert "nothing to send" in ended.err


def test_no_such_file_and_no_dsn() -> None:
    ended = invoke("send", "/no/such/file", "--dsn", "postgresql:///x")
    assert (ended.status, ended.out) == (2, "")
    assert "No such file" in ended.err
    ended = invoke("send", "-")
    assert ended.status == 2
    assert "Missing option '--dsn' (env var: 'REQUEUEST_DSN')" in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_stopped_it_leaves_the_rest_in_the_queue(
    migrated_dsn: str, tmp_path: Path, number: signal.Signals
) -> None:
    async with open_receiver() as receiver:
        receiver.script(*[Reply(503)] * 1_000, target="/1")
        file = tmp_path / "requests.jsonl"
        file.write_text(posts(receiver, 2))
        async with running("send", str(file), "--channel", "a b", dsn=migrated_dsn) as sending:
            await sending.wait_to_say("1 of 2 delivered, failed attempts: ")
            sending.signal(number)
            assert await sending.status() == 128 + number
            await sending.wait_to_say("1 remain in the queue; to deliver them: requeuest worker 'a b' --dsn ")
    states = (await queue_of(migrated_dsn)).channels["a b"]
    assert states == {JobState.SUCCEEDED: 1, JobState.AVAILABLE: 1}


async def test_what_is_delivered_after_the_signal_counts(migrated_dsn: str, tmp_path: Path) -> None:
    """The numbers at the end are those of the database after the requests under way have ended."""
    async with open_gate() as gate, open_receiver() as receiver:
        receiver.script(*[Reply(503, headers=(("Retry-After", "1000"),))] * 9)
        file, secret = tmp_path / "requests.jsonl", make_conninfo(migrated_dsn, password="geheim")
        urls = (gate.url, receiver.url)
        file.write_text(lines(*({"method": "GET", "url": url, "channel": "mail"} for url in urls)))
        async with running("send", str(file), "--concurrency", "2", "--dsn", secret, dsn="") as sending:
            await gate.arrived.wait()
            await sending.wait_to_say("failed attempts: 1")
            sending.signal(signal.SIGINT)
            await sending.wait_to_say("finishing the requests under way")
            gate.opened.set()
            assert await sending.status() == 130
            await sending.wait_to_end()
    last = sending.said.splitlines()[-1]
    assert last.startswith(
        "1 delivered after SIGINT; 1 remain in the queue; to deliver them: requeuest worker mail --dsn "
    )
    assert "geheim" not in sending.said
    assert ["mail", "2", "1", "0", "2"] in [line.split()[:5] for line in sending.out.splitlines()]


async def test_a_job_that_somebody_removes_is_not_delivered(migrated_dsn: str, tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        receiver.script(Reply(503, headers=(("Retry-After", "1000"),)))
        file = tmp_path / "requests.jsonl"
        file.write_text(posts(receiver, 1))
        async with running("send", str(file), dsn=migrated_dsn) as sending:
            await sending.wait_to_say("last failure: line 1: status 503")
            async with open_requeuest(migrated_dsn, ()) as client:
                while not await client.clear(["default"]):
                    pass  # it is being recorded
            assert await sending.status() == 1
            await sending.wait_to_say("removed from the queue by somebody else")


@pytest.mark.parametrize(("sqlstate", "said"), [("23514", "refuses"), ("P0001", "is not available")])
async def test_an_error_of_postgresql_itself_is_one_line(migrated_dsn: str, sqlstate: str, said: str) -> None:
    """Here: a trigger raises inside the transaction that stores. Only a data error is a refusal."""
    with psycopg.connect(migrated_dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION requeuest.no() RETURNS trigger LANGUAGE plpgsql AS $$"
            f" BEGIN RAISE 'not today' USING ERRCODE = '{sqlstate}'; END $$;"
            "CREATE TRIGGER no BEFORE INSERT ON requeuest.job EXECUTE FUNCTION requeuest.no()"
        )
    ended = await requeuest("send", "-", dsn=migrated_dsn, stdin='{"method": "GET", "url": "http://localhost/"}')
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"requeuest: PostgreSQL {said}: not today\n"
    assert "Traceback" not in ended.err


def test_what_an_attempt_said_yields_to_what_was_recorded() -> None:
    entries = read_requests([b'{"method": "GET", "url": "http://a/"}'] * 3)
    stored = [Stored(entry, uuid4()) for entry in entries]
    tally = Tally(stored)
    tally.saw_attempt(stored[0].job_id, JobState.AVAILABLE, "status 503 is not accepted")
    tally.saw_attempt(stored[0].job_id, JobState.SUCCEEDED, None)
    tally.saw_attempt(stored[1].job_id, JobState.SUCCEEDED, None)
    tally.saw_attempt(uuid4(), JobState.DEAD, "of somebody else's job")
    assert tally.overall == ChannelCount(total=3, delivered=2, given_up=0, failures=1)
    assert tally.last_failure == "line 1: status 503 is not accepted"
    assert tally.unfinished == stored
    for one, state in zip(stored, (JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED), strict=True):
        tally.add(Outcome(one, state))
    assert tally.overall == ChannelCount(total=3, delivered=1, given_up=2, failures=1)
    assert tally.unfinished == []
