"""
When an origin begins to fail, and when it is well again.

What could go wrong: a burst that fails together taken for a receiver that fails; silence until a job is given up; a
flapping receiver told of all the time; a recovery told of an origin whose failing was not; memory that grows with the
origins.
"""

import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio._engine.origin_health import FAILURES, PAUSE_SECONDS, Failing, OriginHealth, Recovered
from requeuest_trio._model.origin import origin_of
from requeuest_trio._model.request import Request

A = "http://a.example"


def fail(health: OriginHealth, origin: str, at: float, times: int = FAILURES) -> list[Failing | None]:
    """So many failures, a second apart."""
    return [health.failed(origin, now=at + number) for number in range(times)]


def test_three_are_told_once() -> None:
    health = OriginHealth()
    assert fail(health, A, 0.0, 10) == [None, None, Failing(3), *[None] * 7]
    assert fail(health, A, 1_000.0, 10) == [None] * 10


def test_a_success_in_between_begins_anew() -> None:
    health = OriginHealth()
    for at in range(0, 1_000, 10):
        assert fail(health, A, at, 2) == [None, None]
        assert health.succeeded(A, now=at + 5.0) is None


def test_what_fails_together_is_not_told_before_it_lasts() -> None:
    """A hundred attempts were under way when the receiver was restarted, and their retries get through."""
    health = OriginHealth()
    assert {health.failed(A, now=number / 101) for number in range(100)} == {None}
    assert health.failed(A, now=1.0) == Failing(101)


def test_nobody_hears_first_of_a_job_that_was_given_up() -> None:
    health = OriginHealth()
    assert health.failed(A, now=0.0) is None
    assert health.failed(A, now=0.1, gives_up=True) is None, "one bad request is no bad receiver"
    assert health.failed(A, now=0.2) is None
    assert health.failed(A, now=0.3, gives_up=True) == Failing(4)


def test_recovery_is_told_once_and_only_after_a_failing_that_was() -> None:
    health = OriginHealth()
    assert fail(health, A, 10.0)[2] == Failing(3)
    assert health.succeeded(A, now=20.0) == Recovered(3, 10.0)
    assert health.succeeded(A, now=21.0) is None
    # Within the minute: neither is told.
    assert fail(health, A, 30.0) == [None] * 3
    assert health.succeeded(A, now=40.0) is None
    # It fails on over the end of the minute, and is told then.
    assert fail(health, A, 60.0) == [None] * 3
    assert health.failed(A, now=82.0) == Failing(4)
    assert health.succeeded(A, now=101.0) == Recovered(4, 41.0)


def test_origins_do_not_touch_each_other() -> None:
    health = OriginHealth()
    fail(health, A, 0.0, 2)
    assert fail(health, "http://b.example", 0.0, 2) == [None, None]
    assert health.succeeded("http://b.example", now=2.0) is None
    assert health.failed(A, now=4.0) == Failing(3)


def test_of_an_origin_that_is_well_nothing_is_kept() -> None:
    health = OriginHealth()
    health.succeeded(A, now=0.0)
    assert not health
    fail(health, A, 0.0, 2)
    health.succeeded(A, now=3.0)
    assert not health
    fail(health, A, 10.0)
    health.succeeded(A, now=20.0)
    assert health, "that it was told of within a minute"
    health.succeeded(A, now=20.0 + PAUSE_SECONDS)
    assert not health


def test_memory_is_bounded_with_a_hundred_thousand_origins() -> None:
    health, told = OriginHealth(), 0
    tracemalloc.start()
    try:
        for number in range(100_000):
            origin = f"https://receiver-{number}.example.com:8443"
            told += sum(one is not None for one in fail(health, origin, number / 1_000))
        assert tracemalloc.get_traced_memory()[0] < 10_000_000
    finally:
        tracemalloc.stop()
    assert len(health) == 10_000
    assert 10_000 <= told < 100_000
    # What was told within the last minute is still known, so that it is not told again.
    [kept] = {f"https://receiver-{number}.example.com:8443" for number in range(99_999)} & {next(iter(health._records))}
    assert health.succeeded(kept, now=100.1) is not None


def test_the_one_that_has_not_failed_for_longest_goes_first() -> None:
    health = OriginHealth(limit=2)
    fail(health, "a", 0.0, 2)
    fail(health, "b", 0.0, 2)
    assert health.failed("a", now=11.0) == Failing(3)
    assert health.failed("c", now=12.0) is None
    assert health.failed("b", now=13.0) is None, "forgotten when c came"
    assert health.failed("a", now=14.0) is None, "still known"


OUTCOMES = st.lists(
    st.tuples(st.sampled_from("ab"), st.booleans(), st.floats(0, 20), st.booleans()), min_size=20, max_size=200
)


@given(OUTCOMES)
def test_each_is_told_at_most_once_a_minute_and_by_turns(outcomes: list[tuple[str, bool, float, bool]]) -> None:
    health, now = OriginHealth(), 0.0
    told: dict[str, list[tuple[bool, float]]] = {"a": [], "b": []}
    for origin, is_success, pause, gives_up in outcomes:
        now += pause
        what = health.succeeded(origin, now=now) if is_success else health.failed(origin, now=now, gives_up=gives_up)
        if what is not None:
            told[origin].append((is_success, now))
    for one in told.values():
        assert [is_success for is_success, _ in one] == [number % 2 == 1 for number in range(len(one))]
        for kind in (one[::2], one[1::2]):
            assert all(later - sooner >= PAUSE_SECONDS for (_, sooner), (_, later) in pairwise(kind))


def test_an_origin_has_no_secret() -> None:
    urls = {
        "https://user:s3cret@api.example.com/s3cret?token=s3cret#s3cret": "https://api.example.com",
        "http://API.example.com:80/": "http://api.example.com",
        "https://api.example.com:8443/a": "https://api.example.com:8443",
        "http://[2001:db8::1]:8080/a?b": "http://[2001:db8::1]:8080",
        "http://127.0.0.1/": "http://127.0.0.1",
        "https://bücher.example/ü": "https://xn--bcher-kva.example",
    }
    assert {url: origin_of(Request.get(url).url) for url in urls} == urls
