"""
Promise 7: the log says what happens, under fixed names, and never a secret.

What could go wrong, and is tried here: an event that has other fields than its table, or another level; a line for
each job where many are delivered; a header, body, password or token that gets into a record by way of an error's text.
"""

import dataclasses
import json
import logging

import pytest
from psycopg.conninfo import make_conninfo

from requeuest_trio import Config, Request, RetryPolicy, open_requeuest
from requeuest_trio._observe import events
from requeuest_trio.testing import Receiver, Reply, Reset
from tests.engine.probe import Log, QueueProbe, nothing_left
from tests.proxy import open_proxy

KINDS = {kind.name: kind for kind in (getattr(events, name) for name in events.__all__)}
ONCE = RetryPolicy(max_attempts=1)


def check_table(log: Log) -> None:
    """Every record of an event is as its table says."""
    for record in log.records:
        name = getattr(record, "event", None)
        if name is None:
            continue
        kind = KINDS[name]
        assert record.levelno == kind.level
        assert record.name == f"requeuest_trio.{kind.room}"
        assert list(record.__dict__["fields"]) == [field.name for field in dataclasses.fields(kind)], name
        assert record.getMessage().startswith(f"{name} ")
        assert json.loads(json.dumps(record.__dict__["fields"], allow_nan=False)) == record.__dict__["fields"]


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_each_event_is_as_the_table_says(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    receiver.script(Reply(500), target="/dead")
    config = Config(keep_succeeded=60.0)
    async with nothing_left(probe), open_requeuest(probe.dsn, lease=1, grace=1, config=config) as client:
        dead = await client.spawn("a", Request.get(receiver.url + "/dead"), retry=ONCE)
        await client.wait(dead)
        await probe.connection.execute(
            "insert into requeuest.job (channel, method, url, state, ordering_key, position, placed) "
            "values ('a', 'GET', %s, 'blocked', 'k', 1, true)",
            [receiver.url],
        )
        for event in ("opened", "claimed", "attempt", "job_dead", "unstranded"):
            await log.wait_for(event)
        await probe.until_true("select count(*) > 0 from requeuest.job where state = 'succeeded'")
        old = "update requeuest.job set finished_at = now() - interval '1 h' where state = 'succeeded'"
        await probe.connection.execute(old)
        await log.wait_for("pruned")
        for pid in await probe.sessions():
            await probe.connection.execute("select pg_terminate_backend(%s)", [pid])
        await log.wait_for("listener_lost")
        await log.wait_for("listener_back")
        await probe.connection.execute("delete from requeuest.worker")
        await log.wait_for("lease_lost")
    assert log.fields("draining") == [{"running": 0, "grace": 1.0}]
    assert log.fields("closed") == [{"released": 0}]
    check_table(log)


@pytest.mark.needs_sessions("a pooler is said")
async def test_nothing_is_said_for_each_job(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn) as client:
        receiver.script(*[Reply(503)] * 20)
        await client.spawn_many("a", [Request.get(receiver.url)] * 50, retry=RetryPolicy(initial=0.05))
        await probe.until_states(succeeded=50)
    said = [record for record in log.records if record.levelno >= logging.INFO]
    assert [getattr(record, "event", record.getMessage()) for record in said] == ["opened", "draining", "closed"]
    assert len(log.fields("attempt")) == 70


@pytest.mark.parametrize("outage", [False, True])
async def test_no_secret_is_ever_logged(
    probe: QueueProbe, receiver: Receiver, caplog: pytest.LogCaptureFixture, outage: bool
) -> None:
    """Not by this library at any level, nor from INFO on by those below it (httpcore shows headers at DEBUG)."""
    caplog.set_level(logging.DEBUG)
    address = receiver.url.removeprefix("http://")
    request = Request.post(
        f"http://user:s3cret-userinfo@{address}/hook?token=s3cret-query",
        headers={"X-Api-Key": "s3cret-header"},
        content=b"s3cret-body",
    )
    nowhere = Request.post("http://user:s3cret-userinfo@127.0.0.1:9/?token=s3cret-query", content=b"s3cret-body")
    answer = Reply(500, headers=(("Set-Cookie", "s3cret-cookie"),), body=b"s3cret-answer")
    receiver.script(answer, Reset(), Reply(200, body=b"s3cret-answer", body_sent=3))
    async with nothing_left(probe), open_proxy(probe.dsn) as proxy:
        dsn = make_conninfo(proxy.dsn, sslmode="disable", password="s3cret-password")
        config = Config(connect_timeout=0.5, statement_timeout=0.3)
        async with open_requeuest(dsn, lease=1, grace=0, config=config) as client:
            for one in (request, request, request, nowhere):
                await client.wait(await client.spawn("a", one, retry=ONCE))
            await probe.connection.execute(
                "insert into requeuest.job (channel, method, url, headers) values "
                "('a', 'GET', 'http://u:s3cret-userinfo@/', '[]'), ('a', 'GET', '//s3cret-query', '[]'), "
                "('a', 'GET', 'http://localhost/', '[[\"a\", \"s3cret-header\\r\\n\"]]')"
            )
            await client.spawn("a", request)
            await probe.until_true("select count(*) = 0 from requeuest.job where state = 'available' and attempts = 0")
            if outage:
                proxy.freeze()
                proxy.cut()
                await probe.until_true("select bool_and(seen_at + lease < now()) from requeuest.worker")
                proxy.thaw()
    texts = [
        f"{record.getMessage()} {record.__dict__} {record.exc_text}"
        for record in caplog.records
        if record.name.startswith("requeuest_trio") or record.levelno >= logging.INFO
    ]
    assert len(texts) > 10
    assert not [text for text in texts if "s3cret" in text]


async def test_postgres_shows_no_row_in_the_log(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    """The detail of a refusal is the row, with everything that is in it."""
    await probe.connection.execute("alter table requeuest.job add constraint refuse check (state <> 'succeeded')")
    request = Request.post(receiver.url + "/?token=s3cret", headers={"X-Api-Key": "s3cret"}, content=b"s3cret")
    async with nothing_left(probe), open_requeuest(probe.dsn, grace=0) as client:
        await client.spawn("a", request)
        await log.wait_for("outcome_refused")
        await log.wait_for("record_failed")
    assert "violates check constraint" in log.fields("record_failed")[0]["error"]
    assert not [record for record in log.records if "s3cret" in f"{record.getMessage()} {record.__dict__}"]
    check_table(log)
