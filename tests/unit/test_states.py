"""The states of a job, walked through by their table."""

from itertools import product

import pytest

from requeuest_trio import JobState
from requeuest_trio._model.states import FINISHED, TRANSITIONS

# States of work that is still to come: two-phase spawning, and cancelling.
LATER = {JobState.HELD, JobState.CANCELLED}
WAYS = {(transition.before, transition.after) for transition in TRANSITIONS}


@pytest.mark.parametrize("before", sorted(FINISHED))
def test_nothing_leaves_a_final_state(before: JobState) -> None:
    assert {after for start, after in WAYS if start is before} == set()


def test_every_state_is_reached_from_a_spawn() -> None:
    reached: set[JobState | None] = {None}
    while more := {after for before, after in WAYS if before in reached} - reached:
        reached |= more
    assert reached - {None} == set(JobState) - LATER


@pytest.mark.parametrize("state", sorted(set(JobState) - FINISHED - LATER))
def test_every_unfinished_state_leads_to_an_end(state: JobState) -> None:
    ahead: set[JobState] = {state}
    while more := {after for before, after in WAYS if before in ahead} - ahead:
        ahead |= more
    assert ahead & FINISHED


def test_only_a_claimed_job_can_be_delivered() -> None:
    assert {before for before, after in WAYS if after is JobState.SUCCEEDED} == {JobState.RUNNING}


def test_each_pair_stands_once_with_its_cause() -> None:
    pairs = [(transition.before, transition.after) for transition in TRANSITIONS]
    assert len(pairs) == len(set(pairs))
    assert all(transition.cause for transition in TRANSITIONS)
    assert all(before is not after for before, after in product(JobState, repeat=2) if (before, after) in WAYS)
