"""What any role may announce. Invariants: nothing is raised, whatever it says; what is taken at its word is what the
library writes."""

from __future__ import annotations

import json
import math
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio._engine.notification import finished_in, waits_in
from requeuest_trio._model import checks

ODD = [
    "",
    " ",
    "null",
    "7",
    '"a"',
    "[]",
    "{}",
    "{",
    "[" * 7_900,
    '{"a":' * 1_500,
    '{"a": ' + "[" * 3_000 + "]" * 3_000 + "}",
    '{"a": ' + "9" * 401 + "}",
    '{"a": ' + "9" * 5_000 + "}",
    '{"a": 1e400}',
    '{"a": -1}',
    '{"a": NaN}',
    '{"a": Infinity}',
    '{"a": -Infinity}',
    '{"a": true}',
    '{"a": null}',
    '{"a": "0"}',
    '{"a": {}}',
    '{"a": []}',
    '{"a": [0, 1, 2]}',
    '{"a": [[0]]}',
    '{"a": 0, "a": 5}',
    '{"": 0}',
    '{"\\ud800": 0}',
    '{"\\u0000": 0}',
    json.dumps({"c" * 201: 0}),
    '{"a": 0, "\\ud800": 0}',
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda of: st.lists(of) | st.dictionaries(st.text(), of),
)
CHANNELS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200)


@pytest.mark.parametrize("payload", ODD, ids=lambda payload: payload[:20])
def test_what_is_not_as_the_library_writes_it_is_not_taken_at_its_word(payload: str) -> None:
    assert waits_in(payload) is None


@given(st.text() | JSON.map(json.dumps) | st.dictionaries(CHANNELS, JSON).map(json.dumps))
def test_nothing_that_is_announced_raises(payload: str) -> None:
    for channel, waits in (waits_in(payload) or {}).items():
        assert checks.channel_name(channel) == channel
        assert 1 <= len(waits) <= 2
        assert all(isinstance(wait, float) and 0 <= wait < math.inf for wait in waits)
    assert all(isinstance(job_id, UUID) for job_id in finished_in(payload) or ())


@given(st.dictionaries(CHANNELS, st.floats(0, 1e12) | st.lists(st.floats(0, 1e12), min_size=1, max_size=2), min_size=1))
def test_what_the_library_writes_is_read(said: dict[str, float | list[float]]) -> None:
    expected = {channel: waits if isinstance(waits, list) else [waits] for channel, waits in said.items()}
    assert waits_in(json.dumps(said)) == expected


@given(st.lists(st.uuids(), min_size=1))
def test_finished_jobs_are_read(job_ids: list[UUID]) -> None:
    assert finished_in(",".join(map(str, job_ids))) == job_ids


@pytest.mark.parametrize("payload", ["", ",", "x", f"{UUID(int=1)},", f"{UUID(int=1)} {UUID(int=2)}", "1" * 7_000])
def test_what_is_no_list_of_ids_is_not_taken_at_its_word(payload: str) -> None:
    assert finished_in(payload) is None
