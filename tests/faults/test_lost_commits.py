"""
Every place at which the library commits something, and the commit, or the answer to it, is lost with its connection.

What could go wrong: a job is stored twice, or not at all, or sent twice, or by nobody; a lease, a claim or a place of
an ordering key is left to a process that does not know of it; a caller is not told.
"""

from __future__ import annotations

import re
from typing import get_args

import pytest
import trio

from requeuest_trio.testing import Receiver
from tests.engine.conftest import log
from tests.engine.probe import Log, QueueProbe
from tests.faults import places_of_callers, places_of_workers
from tests.faults.lost_commits import PATIENCE, PLACES, Lost, scene_of
from tests.postgres_messages import query_texts

__all__ = ["log", "places_of_callers", "places_of_workers"]

_WRITES = re.compile(r"\b(INSERT INTO|(?<!FOR )UPDATE|DELETE FROM|CREATE|DROP)\b|\bannounce\(")

# These only speak of it.
_READS = {"missing_rights", "strangers", "lock_tables"}


@pytest.mark.parametrize("lost", get_args(Lost))
@pytest.mark.parametrize("name", PLACES)
async def test_a_commit_that_is_lost(name: str, lost: Lost, probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    place = PLACES[name]
    async with scene_of(place, lost, probe, receiver, log) as scene:
        with trio.fail_after(PATIENCE):
            await place.act(scene)
        await scene.must_have_become(place.became[lost])


def test_every_statement_that_writes_has_its_place() -> None:
    """In the table above: who adds one to the store adds a line there."""
    writing = {name for name, statement in query_texts().items() if _WRITES.search(statement)} - _READS
    assert {"claim", "record", "spawn", "heartbeat", "prune"} <= writing
    assert {"job", "locked_jobs", "lock_keys", "due_channels"}.isdisjoint(writing)
    assert writing == {statement for place in PLACES.values() for statement in place.commits}
