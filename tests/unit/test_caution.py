"""After a claim that has failed of what it read: one job at a time, until it is known which it was; then all again."""

from uuid import UUID

from requeuest_trio._engine.caution import Caution

ALL = {"a": 3, "b": 2}
ONE = {"a": 1}
CULPRIT, OTHER = UUID(int=1), UUID(int=2)
LARGE, SMALL = 1_000_000, 1_000


def failing_alone(caution: Caution, job: UUID = CULPRIT, *, size: int = LARGE, was_time: bool = True) -> bool:
    caution.failed(ONE, was_time=was_time)
    assert caution.accused == "a"
    return caution.is_guilty("a", job, size)


def test_nothing_is_limited_before_a_failure() -> None:
    caution = Caution()
    assert not caution
    assert caution.limited(ALL) is ALL
    caution.passed(ALL)
    assert not caution


def test_after_a_failure_jobs_come_one_by_one_until_there_were_as_many() -> None:
    caution = Caution()
    caution.failed(ALL, was_time=True)
    assert caution.accused is None, "nobody knows which of them it was"
    for _ in range(5):
        assert caution
        assert caution.limited(ALL) == ONE
        caution.passed(ONE)
    assert not caution
    assert caution.limited(ALL) is ALL


def test_all_is_well_once_nothing_is_left() -> None:
    caution = Caution()
    caution.failed(ALL, was_time=True)
    assert caution.limited({}) == {}
    caution.over()
    assert caution.limited(ALL) is ALL


def test_who_fails_alone_three_times_in_a_row_is_guilty() -> None:
    caution = Caution()
    caution.failed(ALL, was_time=True)
    assert [failing_alone(caution) for _ in range(3)] == [False, False, True]
    assert caution.accused is None
    assert not failing_alone(caution), "if the verdict was not carried out, it needs new evidence"


def test_another_failure_or_a_success_in_between_acquits() -> None:
    caution = Caution()
    for _ in range(3):
        assert [failing_alone(caution) for _ in range(2)] == [False, False]
        assert not failing_alone(caution, OTHER)
    for _ in range(3):
        assert [failing_alone(caution) for _ in range(2)] == [False, False]
        caution.passed({"b": 1})
        caution.passed(ONE)
    assert [failing_alone(caution) for _ in range(2)] == [False, False]
    caution.failed(ONE, was_time=True)
    caution.acquit()
    assert caution.accused is None
    assert [failing_alone(caution) for _ in range(3)] == [False, False, True]


def test_a_success_in_another_channel_acquits_nobody() -> None:
    caution = Caution()
    assert [failing_alone(caution) for _ in range(2)] == [False, False]
    caution.passed({"b": 1})
    assert failing_alone(caution)


def test_a_small_job_is_not_to_blame_for_time_but_for_an_error() -> None:
    caution = Caution()
    assert not any(failing_alone(caution, size=SMALL) for _ in range(9))
    assert [failing_alone(caution, size=SMALL, was_time=False) for _ in range(3)] == [False, False, True]
