"""What statements cost. Invariants: a claim reads what it takes, however long the backlog, the blocked and the delayed
jobs are, and whatever the planner believes; `due_channels` reads a few entries for each channel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.engine.store_harness import StoreHarness
from tests.postgres.harness import Conn, value

MANY = 100_000
FILL = """
INSERT INTO requeuest.job (placed, channel, method, url, state, due_at, priority, ordering_key, position) SELECT true,
"""
BACKLOGS = {
    "due": "'c', 'GET', 'http://x.test/', 'available', now() - i * interval '1 ms', i % 2, NULL, NULL",
    "delayed": "'c', 'GET', 'http://x.test/', 'available', now() + interval '1 d', i % 2, NULL, NULL",
    "blocked": "'c', 'GET', 'http://x.test/', 'blocked', now(), 0, 'k' || i % 1000, i",
    "elsewhere": "'x' || i % 100, 'GET', 'http://x.test/', 'available', now(), 0, NULL, NULL",
}


async def fill(conn: Conn, columns: str, number: int) -> None:
    await conn.execute(f"{FILL} {columns} FROM generate_series(1, {number}) AS i".encode())


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def explained(conn: Conn, query: bytes, **parameters: Any) -> dict[str, Any]:
    cursor = await conn.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, parameters)
    [([plan],)] = await cursor.fetchall()
    found: dict[str, Any] = plan["Plan"]
    return found


def touched(plan: dict[str, Any]) -> float:
    """Rows of jobs that were read, those that a filter threw away included."""
    scans = [node for node in nodes(plan) if "Scan" in node["Node Type"] and node.get("Relation Name") == "job"]
    assert scans
    assert all(scan["Node Type"] != "Seq Scan" for scan in scans)
    rows = sum((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"] for n in scans)
    return float(rows)


@pytest.mark.parametrize("backlog", BACKLOGS)
async def test_a_claim_reads_what_it_takes(harness: StoreHarness, conn: Conn, backlog: str) -> None:
    await conn.execute("ALTER TABLE requeuest.job SET (autovacuum_enabled = off)")
    worker = await harness.worker(conn)
    for _ in range(12):  # long enough for a prepared statement with a plan that is kept
        await harness.claim(conn, worker, {"c": 20})
    await conn.execute("ANALYZE requeuest.job")
    await fill(conn, BACKLOGS[backlog], MANY)
    await fill(conn, BACKLOGS["due"].replace("1 ms", "1 s"), 200)

    async def check(*without: str) -> None:
        for setting in ("enable_hashjoin", "enable_mergejoin", "enable_nestloop"):
            await conn.execute(f"SET {setting} = {'off' if setting in without else 'on'}".encode())
        places = {"channels": ["c", "nobody"], "places": [10, 10], "budget": 4_000_000}
        plan = await explained(conn, harness.queries["claim"], worker=worker, claim=uuid4(), **places)
        assert plan["Actual Rows"] == 10
        assert touched(plan) <= 10 * 5
        assert any(node.get("Index Name") == "job_available" for node in nodes(plan))
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 10 * 40

    for _ in ("statistics of an empty table", "fresh statistics"):
        await check()
        await check("enable_hashjoin", "enable_mergejoin")
        await check("enable_nestloop")
        # The plan that was kept from the time when the table was empty serves as well.
        assert len(await harness.claim(conn, worker, {"c": 20})) == 20
        await conn.execute("ANALYZE requeuest.job")
    assert await value(conn, "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'job'") < 1_000


async def test_due_channels_costs_by_the_channel(harness: StoreHarness, conn: Conn) -> None:
    await conn.execute(
        f"{FILL} {BACKLOGS['elsewhere']} FROM generate_series(1, {MANY}) AS i".replace("%", "%").encode()
    )
    for statistics in ("none", "fresh"):
        plan = await explained(conn, harness.queries["due_channels"], horizon=5.0)
        assert plan["Actual Rows"] == 100, statistics
        assert touched(plan) <= 100 * 3
        plan = await explained(conn, harness.queries["due_of_channels"], horizon=5.0, channels=["c1", "c2", "unknown"])
        assert touched(plan) <= 3 * 3, statistics
        await conn.execute("ANALYZE requeuest.job")


async def test_other_frequent_statements_read_few_rows(harness: StoreHarness, conn: Conn) -> None:
    await fill(conn, BACKLOGS["due"], MANY)
    await conn.execute("ANALYZE requeuest.job")
    some = uuid4()
    row = {"id": str(some), "claim": str(some), "state": "dead", "ago": 0, "duration": 0, "reached": "sent"}
    parameters: dict[str, dict[str, Any]] = {
        "rescue": {"error": "lost", "topic": None, "rescuer": None, "lost": [], "seen": []},
        "record": {"rows": json.dumps([row]), "bodies": [b""], "excerpt": 9, "topic": None},
        "release": {"worker": some, "claims": None, "ids": None, "topic": None},
        "await_job": {"id": some, "topic": None},
        "still_unfinished": {"ids": [some] * 50},
    }
    for name, given in parameters.items():
        plan = await explained(conn, harness.queries[name], **given)
        assert touched(plan) <= 1, name
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 1_000, name


async def test_outcomes_are_found_however_much_is_running(harness: StoreHarness, conn: Conn) -> None:
    """With statistics from before: PostgreSQL believes that nothing is."""
    await fill(conn, BACKLOGS["due"], MANY)
    await conn.execute("ANALYZE requeuest.job")
    await conn.execute(
        "UPDATE requeuest.job SET state = 'running', attempts = 1, worker = gen_random_uuid(), "
        "claim = gen_random_uuid(), claimed_at = now() WHERE id = ANY (ARRAY(SELECT id FROM requeuest.job LIMIT 5000))"
    )
    row = {"id": str(uuid4()), "claim": str(uuid4()), "state": "dead", "ago": 0, "duration": 0, "reached": "sent"}
    given = {"rows": json.dumps([row]), "bodies": [b""], "excerpt": 9, "topic": None}
    plan = await explained(conn, harness.queries["record"], **given)
    assert touched(plan) <= 1
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 100
