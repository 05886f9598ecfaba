"""
Rows of other programs whose texts try to pass for events of the library's own. `test_texts_of_others` has the command.

Invariant: whatever stands in a row, or comes from a receiver, begins no line and steers no terminal, in any event. What
could go wrong: a text that is logged as it is, or in an error that quotes it.
"""

from __future__ import annotations

import json
import logging
import re

import psycopg
import pytest

from requeuest_trio import ALL, Client, Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import Receiver, Reply
from tests.waiting import until

FORGED = "x\nFORGED 1\r\nFORGED 2\rFORGED 3\x1b[2JFORGED\x9b2J\x85FORGED\u2028FORGED\u202eFORGED\x07"
STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
INSERT = """
    INSERT INTO requeuest.job (channel, ordering_key, method, url, headers, body, error, accept, retry)
    VALUES (%(channel)s, %(key)s, %(method)s, %(url)s, %(headers)s, %(body)s, %(error)s,
            coalesce(%(accept)s, '{[200,300)}')::int4multirange, %(retry)s)
    RETURNING id::text
"""
PLAIN: dict[str, str | bytes | None] = {
    "key": None,
    "error": None,
    "accept": None,
    "retry": None,
    "channel": "mail",
    "method": "POST",
    "url": "http://127.0.0.1:9/",
    "headers": "[]",
    "body": b"",
}
ROWS: dict[str, dict[str, str | bytes | None]] = {
    "channel": {"channel": FORGED},
    "channel of a damaged job": {"channel": FORGED, "method": FORGED},
    "ordering key": {"key": FORGED},
    "method": {"method": FORGED},
    "url": {"url": f"http://h/{FORGED}"},
    "origin": {"url": f"http://{FORGED}/"},
    "name of a field": {"headers": json.dumps([[FORGED, "a"]])},
    "value of a field": {"headers": json.dumps([["X-Tag", FORGED]])},
    "headers that are none": {"headers": json.dumps({FORGED: FORGED})},
    "body": {"body": FORGED.encode(), "headers": json.dumps([["Content-Type", "text/plain; charset=utf-8"]])},
    "type of the body": {"body": b"a", "headers": json.dumps([["Content-Type", FORGED]])},
    "error": {"error": FORGED},
    "policy": {"retry": json.dumps({FORGED: FORGED})},
}


def insert(dsn: str) -> list[str]:
    """One row for each; their ids."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO requeuest.worker (id, lease, host, pid) VALUES (gen_random_uuid(), '1 s', %s, 1)", [FORGED]
        )
        cursors = [connection.execute(INSERT, PLAIN | row) for row in ROWS.values()]
        return [job_id for cursor in cursors for (job_id,) in cursor.fetchall()]


def require_harmless(shown: str) -> None:
    """No line begins with what a row says, and nothing steers a terminal."""
    assert not STEERING.search(shown), repr(STEERING.search(shown))
    assert not [line for line in re.split(r"[\r\n]", shown) if line.lstrip().startswith("FORGED")]


async def test_the_rows_are_what_they_are_meant_to_be(migrated_dsn: str) -> None:
    """Otherwise nothing below would show anything."""
    insert(migrated_dsn)
    async with open_requeuest(migrated_dsn, []) as client:
        jobs = [job async for job in client.jobs()]
    assert len(jobs) == len(ROWS)
    assert FORGED in {job.channel for job in jobs}
    with pytest.raises(AssertionError):
        require_harmless(FORGED)


async def until_all_are_tried(client: Client) -> None:
    async def none_is_left() -> bool:
        return not [job async for job in client.jobs() if job.attempts == 0]

    await until(none_is_left, patience=60.0)


async def test_in_events(migrated_dsn: str, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    insert(migrated_dsn)
    odd = (("X-A", "\x9b2J\x85FORGED"), ("Location", "\x85FORGED"))
    receiver.script(Reply(500, headers=odd, body=FORGED.encode()), target="/a")
    receiver.script(Reply(302, headers=odd), target="/b")
    with caplog.at_level(logging.DEBUG, "requeuest_trio"):
        async with open_requeuest(migrated_dsn, ALL, poll_interval=0.1) as client:
            once = RetryPolicy(max_attempts=1)
            for request in (Request.get(receiver.url + "/a"), Request.get(receiver.url + "/b", follow_redirects=True)):
                await client.wait(await client.spawn("mail", request, retry=once))
            await until_all_are_tried(client)
    assert "job_dead" in " ".join(caplog.messages)
    for message in caplog.messages:
        require_harmless(message)
        assert "\n" not in message
