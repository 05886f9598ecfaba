"""The states. Invariants: the database knows exactly those of the table in `_model/states.py`; the statements make
exactly its transitions; what no state allows, the table refuses, whoever writes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from requeuest_trio import JobState
from requeuest_trio._model.states import FINISHED, TRANSITIONS
from requeuest_trio._store.claimed import Reservation
from tests.engine.store_harness import StoreHarness, delivered, gave_up, new_id, new_job, to_be_retried
from tests.postgres.harness import Conn, value

WATCH = """
CREATE TABLE public.moves (before text, after text);
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO public.moves VALUES (NULL, NEW.state::text);
    ELSIF NEW.state <> OLD.state THEN
        INSERT INTO public.moves VALUES (OLD.state::text, NEW.state::text);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE ON requeuest.job FOR EACH ROW EXECUTE FUNCTION public.note();
"""
ALLOWED = {(transition.before, transition.after) for transition in TRANSITIONS}


async def test_the_database_has_the_same_states(harness: StoreHarness, conn: Conn) -> None:
    rows = await harness.rows(conn, "SELECT unnest(enum_range(NULL::requeuest.job_state))::text")
    assert [state for (state,) in rows] == list(JobState)


async def test_every_transition_is_made_by_some_statement(harness: StoreHarness, conn: Conn) -> None:
    await conn.execute(WATCH.encode())
    worker = await harness.worker(conn)
    await harness.on(conn).store([new_job("d")], reservation=Reservation("d", worker, uuid4()))
    await harness.spawn(conn, *(new_job(key=key) for key in ("k", "k", None, None)))
    head, dead, again = await harness.claim(conn, worker)
    await harness.record(conn, [delivered(head), gave_up(dead), to_be_retried(again)])
    waiting = await harness.spawn(conn, *(new_job(key="other") for _ in range(2)))
    await harness.on(conn).condemn(waiting, "unreadable", (JobState.AVAILABLE, JobState.BLOCKED))
    moves = await harness.rows(conn, "SELECT DISTINCT before, after FROM public.moves")
    assert set(moves) == ALLOWED


async def test_no_statement_makes_another(harness: StoreHarness, conn: Conn) -> None:
    """All statements, each on a job in each state, under its true claim, expired and due for everything."""
    await conn.execute(WATCH.encode())
    for state in JobState:
        for key in (None, "k") if state is not JobState.BLOCKED else ("k",):
            await try_all(harness, conn, state, key)


async def try_all(harness: StoreHarness, conn: Conn, state: JobState, key: str | None) -> None:
    worker, job_id = await harness.worker(conn), new_id()
    claim = uuid4()
    report = replace(await claimed_sample(harness, conn), id=job_id, claim=claim, ordering_key=key)

    async def put() -> None:
        await conn.execute("DELETE FROM requeuest.job; DELETE FROM requeuest.attempt")
        await insert(conn, id=job_id, state=state, key=key, worker=worker, claim=claim)
        await conn.execute("DELETE FROM public.moves")

    store, no_wait = harness.on(conn), timedelta(0)
    tries: dict[str, Callable[[], Awaitable[object]]] = {
        "spawn": lambda: store.spawn([new_job(key=key, id=job_id)]),
        "spawn claimed": lambda: store.store([new_job(id=job_id)], reservation=Reservation("c", worker, uuid4())),
        "claim": lambda: harness.claim(conn, worker),
        "deliver": lambda: harness.record(conn, [delivered(report)]),
        "give up": lambda: harness.record(conn, [gave_up(report)]),
        "retry": lambda: harness.record(conn, [to_be_retried(report)]),
        "release": lambda: store.release(worker),
        "release one": lambda: store.release(worker, [claim]),
        "heal": store.free_stranded,
        "condemn": lambda: store.condemn([job_id], "unreadable", (JobState.AVAILABLE, JobState.BLOCKED)),
        "await": lambda: store.await_job(job_id),
        "prune": lambda: store.prune(state, no_wait),
        "rescue": lambda: rescue(harness, conn),
    }
    made = set[tuple[str, str]]()
    for name, attempt in tries.items():
        await put()
        await attempt()
        moves = await harness.rows(conn, "SELECT DISTINCT before, after FROM public.moves WHERE before IS NOT NULL")
        assert set(moves) <= ALLOWED, name
        assert state in FINISHED or await value(conn, "SELECT count(*) FROM requeuest.job") == 1, name
        made |= set(moves)
    assert made == {(before, after) for before, after in ALLOWED if before == state}


async def rescue(harness: StoreHarness, conn: Conn) -> None:
    await conn.execute("UPDATE requeuest.worker SET seen_at = now() - interval '1 h'")
    await harness.rescue(conn)
    await conn.execute("UPDATE requeuest.worker SET seen_at = now()")


async def claimed_sample(harness: StoreHarness, conn: Conn) -> Any:
    await conn.execute("DELETE FROM requeuest.job")
    await harness.spawn(conn, new_job())
    [claimed] = await harness.claim(conn, await harness.worker(conn))
    return claimed


async def insert(conn: Conn, **columns: Any) -> None:
    """A row that is legal for its state, but for what is given."""
    state = columns["state"]
    running, finished, good = state == "running", state in FINISHED, state == "succeeded"
    row = {
        "id": new_id(),
        "position": None if columns.get("key") is None else 1,
        "worker": uuid4(),
        "claim": uuid4(),
        "key": None,
        "attempts": 1,
        "priority": 0,
        "status": 200 if good else None,
        "claimed": running,
        "finished": finished,
        "response": good,
        "channel": "c",
    } | columns
    row |= {name: row[name] if row["claimed"] else None for name in ("worker", "claim")}
    await conn.execute(
        """INSERT INTO requeuest.job (id, channel, state, priority, ordering_key, position, placed, method, url,
                                      attempts, worker, claim, claimed_at, status, finished_at, response_headers,
                                      response_body, response_truncated)
           VALUES (%(id)s, %(channel)s, %(state)s, %(priority)s, %(key)s, %(position)s, true, 'GET', 'http://x.test/',
                   %(attempts)s, %(worker)s, %(claim)s, CASE WHEN %(claimed)s THEN now() END, %(status)s,
                   CASE WHEN %(finished)s THEN now() - interval '1 h' END, CASE WHEN %(response)s THEN '[]'::json END,
                   CASE WHEN %(response)s THEN ''::bytea END, CASE WHEN %(response)s THEN false END)""",
        row,
    )


async def test_what_a_state_does_not_allow_is_refused(conn: Conn) -> None:
    for number, state in enumerate(JobState):
        await insert(conn, state=state, key=f"k{number}")
        legal = {"claimed": state == "running", "finished": state in FINISHED, "response": state == "succeeded"}
        for name, is_legal in legal.items():
            with pytest.raises(psycopg.errors.CheckViolation):
                await insert(conn, state=state, key="k", **{name: not is_legal})


NONSENSE: list[dict[str, Any]] = [
    {"state": "blocked"},
    {"state": "available", "key": "k", "position": None},
    {"state": "available", "position": 3},
    {"state": "available", "priority": 101},
    {"state": "available", "priority": -101},
    {"state": "available", "attempts": -1},
    {"state": "running", "attempts": 0},
    {"state": "running", "worker": None},
    {"state": "running", "claim": None},
    {"state": "succeeded", "status": None},
    {"state": "available", "channel": ""},
    {"state": "available", "channel": "x" * 201},
    {"state": "available", "key": "x" * 201},
]


async def test_other_combinations_that_make_no_sense_are_refused(conn: Conn) -> None:
    for columns in NONSENSE:
        with pytest.raises(psycopg.errors.CheckViolation):
            await insert(conn, **columns)
