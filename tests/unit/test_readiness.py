"""
Which channels are ready, and which is next: no job that is known of is missed, no wake-up piles up, nothing that is
only heard is kept, and looks at the database come often enough and not too often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from requeuest_trio._engine.readiness import Readiness

POLL = 5.0
CHANNELS = st.sampled_from("abcdef")
WAITS = st.sampled_from([-1.0, 0.0, 0.03, 0.5, 2.0, 4.9, 5.0, 60.0])


def seen(channels: frozenset[str] | None = None, waits: dict[str, float] | None = None, now: float = 0.0) -> Readiness:
    """What is known after a first look."""
    readiness = Readiness(channels, POLL)
    readiness.begin_look(now)
    readiness.end_look(waits or {}, now)
    return readiness


def ready(readiness: Readiness) -> Sequence[str]:
    return readiness.statistics().ready


class Comparison(RuleBasedStateMachine):
    """Beside a model that keeps every time of every channel, and looks through all of them."""

    @initialize(named=st.booleans())
    def start(self, named: bool) -> None:
        self.now = 100.0
        self.delivered = frozenset("abcd") if named else None
        self.readiness = Readiness(self.delivered, POLL)
        self.ready: list[str] = []
        self.times: dict[str, float] = {}
        self.known: set[str] = set(self.delivered or ())
        self.claiming: list[str] = []

    def note(self, channel: str, wait: float) -> None:
        if self.delivered is not None and channel not in self.delivered:
            return
        self.known.add(channel)
        if wait <= 0:
            self.put(channel)
        elif wait < POLL:
            self.times[channel] = min(self.now + wait, self.times.get(channel, math.inf))

    def put(self, channel: str) -> None:
        if channel not in self.ready:
            self.ready.append(channel)

    @rule(channel=CHANNELS, wait=WAITS)
    def something_is_due(self, channel: str, wait: float) -> None:
        before = ready(self.readiness), self.readiness.next_change
        changes = self.readiness.due(channel, wait, self.now)
        self.note(channel, wait)
        assert changes or before == (ready(self.readiness), self.readiness.next_change)

    @rule(channel=CHANNELS, wait=WAITS)
    def something_is_heard(self, channel: str, wait: float) -> None:
        self.readiness.heard(channel, wait, self.now)
        if channel in self.known:
            self.note(channel, wait)
        elif self.delivered is None and wait < POLL:
            assert self.readiness.next_change < math.inf, "a look is to come"

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.4, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.readiness.advance(self.now)
        due = sorted((at, channel) for channel, at in self.times.items() if at <= self.now)
        for _, channel in due:
            del self.times[channel]
            self.put(channel)

    @rule(waits=st.dictionaries(CHANNELS, WAITS, max_size=4), seconds=st.sampled_from([0.0, 0.2]))
    def a_look(self, waits: dict[str, float], seconds: float) -> None:
        self.readiness.begin_look(self.now)
        assert not any(self.readiness.comes_first(channel) for channel in "abcdef")
        self.now += seconds
        self.readiness.end_look(waits, self.now)
        for channel, wait in waits.items():
            self.note(channel, wait)

    @precondition(lambda self: self.ready and not self.claiming)
    @rule(number=st.integers(1, 4))
    def a_claim_begins(self, number: int) -> None:
        self.claiming, self.ready = self.ready[:number], self.ready[number:]
        self.readiness.begin_claim(self.claiming)

    @precondition(lambda self: self.claiming)
    @rule(got=st.lists(st.integers(0, 2), min_size=4, max_size=4), is_cut=st.booleans())
    def a_claim_ends(self, got: list[int], is_cut: bool) -> None:
        claimed = {channel: jobs for channel, jobs in zip(self.claiming, got, strict=False) if jobs}
        emptied = self.readiness.end_claim(dict.fromkeys(self.claiming, 2), claimed, is_cut=is_cut)
        if is_cut:
            for channel in sorted(self.claiming, key=claimed.__contains__):
                self.put(channel)
        for channel, jobs in claimed.items():
            if jobs == 2:
                self.put(channel)
        assert emptied <= set(self.claiming)
        assert emptied.isdisjoint(self.ready), "of those that are ready nothing is to be asked"
        self.readiness.emptied(dict.fromkeys(emptied, 0.0), self.now)
        for channel in emptied:
            self.note(channel, 0.05)
        self.claiming = []

    @invariant()
    def nothing_is_missed_or_invented(self) -> None:
        found = self.readiness.statistics()
        assert list(found.ready) == self.ready
        assert set(found.scheduled) == self.times.keys()
        assert self.readiness.next_change <= min(self.times.values(), default=math.inf)
        assert set(found.known) <= self.known
        assert found.timers <= 2 * len(self.times) + 101


TestComparison = Comparison.TestCase
TestComparison.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_longest_unserved_is_first_and_what_was_served_is_last() -> None:
    readiness = seen()
    for channel in "abc":
        readiness.due(channel, 0.0, 0.0)
    readiness.begin_claim(["a"])
    assert readiness.end_claim({"a": 3}, {"a": 3}, is_cut=False) == set()
    assert list(readiness.ready) == ["b", "c", "a"]


def test_a_claim_that_brings_less_ends_readiness_unless_a_wake_up_comes_meanwhile() -> None:
    readiness = seen()
    readiness.due("a", 0.0, 0.0)
    readiness.due("b", 0.0, 0.0)
    readiness.begin_claim(["a", "b"])
    readiness.due("b", 0.0, 0.1)
    readiness.end_claim({"a": 3, "b": 3}, {"a": 2, "b": 1}, is_cut=False)
    assert list(readiness.ready) == ["b"]


def test_after_a_claim_that_was_cut_who_got_nothing_comes_first() -> None:
    readiness = seen()
    for channel in "abc":
        readiness.due(channel, 0.0, 0.0)
    readiness.begin_claim("abc")
    readiness.end_claim(dict.fromkeys("abc", 5), {"a": 1}, is_cut=True)
    assert list(readiness.ready) == ["b", "c", "a"]


def test_of_what_became_ready_by_its_time_the_next_time_is_asked_for() -> None:
    readiness = seen()
    readiness.due("a", 1.0, 0.0)
    readiness.due("b", 0.0, 0.0)
    assert readiness.next_change == 1.0
    readiness.advance(1.0)
    readiness.begin_claim(["a", "b"])
    assert readiness.end_claim({"a": 2, "b": 2}, {"a": 1, "b": 1}, is_cut=False) == {"a"}
    readiness.emptied({"a": 0.0}, 1.0)
    assert not readiness.ready, "a moment later it is to be had, perhaps"
    readiness.advance(1.05)
    assert list(readiness.ready) == ["a"]


def test_of_a_channel_that_only_now_is_known_the_next_time_is_asked_for_too() -> None:
    """It may have been heard of twice, and only the look has told of the first."""
    readiness = seen(waits={"a": 0.0})
    readiness.begin_claim(["a"])
    assert readiness.end_claim({"a": 2}, {"a": 1}, is_cut=False) == {"a"}


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.floats(0, 10)), max_size=30))
def test_nothing_that_is_only_heard_is_kept(announcements: list[tuple[str, float]]) -> None:
    readiness = seen()
    for channel, wait in announcements:
        readiness.heard(channel, wait, 1.0)
    assert readiness.statistics() == ((), (), (), 0)
    assert readiness.is_look_due(1.0) == any(wait < POLL for _, wait in announcements)


def test_where_channels_are_named_others_are_not_even_looked_for() -> None:
    readiness = seen(frozenset("a"))
    assert not readiness.heard("b", 0.0, 1.0)
    assert not readiness.due("b", 0.0, 1.0)
    assert not readiness.is_look_due(1.0)
    assert readiness.heard("a", 0.0, 1.0)
    assert list(readiness.ready) == ["a"]


def test_wake_ups_of_one_channel_do_not_pile_up() -> None:
    readiness = Readiness(frozenset("a"), 600.0)
    for number in range(10_000):
        readiness.heard("a", 500 - number / 100, 0.0)
        readiness.heard("invented", 0.0, 0.0)
    found = readiness.statistics()
    assert found.timers < 200
    assert found.scheduled == ("a",)
    assert not found.ready


def test_no_more_channels_are_remembered_than_fit() -> None:
    readiness = seen()
    for number in range(10_050):
        readiness.due(f"c{number}", 0.0, 0.0)
    known = readiness.statistics().known
    assert len(known) == 10_000
    assert known[-1] == "c10049", "the newest stay"


def test_looks_are_made_at_once_at_first_then_by_the_poll() -> None:
    readiness = Readiness(None, POLL)
    assert readiness.is_look_due(50.0)
    readiness.begin_look(50.0)
    readiness.end_look({}, 50.2)
    assert not readiness.is_look_due(50.2 + POLL - 0.3)
    assert readiness.next_change == 50.0 + POLL
    assert readiness.is_look_due(50.0 + POLL)
    readiness.begin_look(55.0)
    readiness.end_look({}, 55.0)
    readiness.lose_track()
    assert readiness.is_look_due(55.1)


@pytest.mark.parametrize(("took", "pause"), [(0.0, 0.05), (0.001, 0.05), (0.1, 1.0)])
def test_looks_for_what_was_heard_take_a_small_part_of_the_time(took: float, pause: float) -> None:
    readiness = Readiness(None, POLL)
    readiness.begin_look(1.0)
    readiness.end_look({}, 1.0 + took)
    assert readiness.look_soon(1.0 + took)
    assert not readiness.look_soon(1.0 + took), "it is to come already"
    assert readiness.next_change == pytest.approx(1.0 + took + pause)
    assert not readiness.is_look_due(1.0 + took + pause - 0.01)
    assert readiness.is_look_due(1.0 + took + pause + 0.01)


def test_what_is_spawned_here_comes_first_only_if_nothing_else_may_be_due() -> None:
    readiness = Readiness(None, POLL)
    assert not readiness.comes_first("a"), "nothing was seen yet"
    readiness.begin_look(0.0)
    assert not readiness.comes_first("a"), "nothing was answered yet"
    readiness.end_look({"known": 2.0}, 0.0)
    assert readiness.comes_first("a")
    readiness.due("b", 0.0, 0.0)
    assert readiness.comes_first("a")
    assert not readiness.comes_first("b")
    readiness.look_soon(0.0)
    assert not readiness.comes_first("a"), "it may be what was heard of"
    assert readiness.comes_first("known"), "of that it would have been heard by name"
    assert not seen(frozenset("b")).comes_first("a"), "it is not delivered here"
