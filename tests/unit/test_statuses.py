"""Sets of statuses: every way of writing them comes to one normal form."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio import StatusClass
from requeuest_trio._model.statuses import SUCCESS, contains, statuses


@pytest.mark.parametrize(
    ("spec", "normal"),
    [
        (200, [(200, 201)]),
        (range(200, 300), [(200, 300)]),
        (StatusClass.SUCCESS, [(200, 300)]),
        (SUCCESS, [(200, 300)]),
        ((), []),
        (range(200, 200), []),
        ([range(300, 200), 404], [(404, 405)]),
        ([100, 599], [(100, 101), (599, 600)]),
        ([201, 200], [(200, 202)]),
        ({200, 202}, [(200, 201), (202, 203)]),
        ([StatusClass.SERVER_ERROR, 404, StatusClass.CLIENT_ERROR], [(400, 600)]),
        ([range(200, 210), range(205, 207)], [(200, 210)]),
        ([range(200, 210), range(205, 220)], [(200, 220)]),
        ([range(205, 100), range(200, 210)], [(200, 210)]),
        (list(StatusClass), [(100, 600)]),
        (iter([200, 200]), [(200, 201)]),
        ({200: "ok"}, [(200, 201)]),
    ],
)
def test_normal_form(spec: Any, normal: list[tuple[int, int]]) -> None:
    assert statuses("accept", spec) == tuple(range(start, stop) for start, stop in normal)


def test_the_five_classes_cover_all_statuses_once() -> None:
    assert [len(status_class.value) for status_class in StatusClass] == [100] * 5
    assert statuses("accept", StatusClass) == (range(100, 600),)


PARTS = st.integers(100, 599) | st.sampled_from(StatusClass) | st.builds(
    range, st.integers(100, 600), st.integers(100, 600)
)  # fmt: skip


@given(st.lists(PARTS, max_size=8))
def test_normal_form_has_the_same_members_and_no_two_ways(parts: list[Any]) -> None:
    normal = statuses("accept", parts)
    wanted = set[int]()
    for part in parts:
        wanted |= {part} if isinstance(part, int) else set(part.value if isinstance(part, StatusClass) else part)
    assert {status for status in range(1_000) if contains(normal, status)} == wanted
    assert all(normal)
    assert all(before.stop < after.start for before, after in pairwise(normal))
    assert statuses("accept", sorted(wanted)) == normal == statuses("accept", normal)
