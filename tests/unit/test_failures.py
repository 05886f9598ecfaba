"""What an error of PostgreSQL means, over all SQLSTATEs there are and any there may be.

Invariant: only what is said of the data itself is a refusal; whatever is not known is an outage.
"""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors
from psycopg.pq import DiagnosticField

from requeuest_trio import DatabaseUnavailable
from requeuest_trio._store.failures import (
    Meaning,
    answer_of,
    is_of_time,
    is_of_what_was_read,
    meaning_of,
    was_answered,
)

KINDS = {
    kind
    for module in (psycopg, errors)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, psycopg.Error)
}
ALL = {state: kind for kind in KINDS if isinstance(state := vars(kind).get("sqlstate"), str)}
BY_CLASS = {
    "22": Meaning.REFUSAL,
    "23": Meaning.REFUSAL,
    "40": Meaning.CONFLICT,
    "42": Meaning.MISUSE,
    "3F": Meaning.MISUSE,
    "54": Meaning.REFUSAL,
}
BY_CODE = {
    "40003": Meaning.OUTAGE,
    "42501": Meaning.FORBIDDEN,
    "42P03": Meaning.OUTAGE,
    "42P05": Meaning.OUTAGE,
    "55006": Meaning.CONFLICT,
    "55P03": Meaning.CONFLICT,
}
OF_PSYCOPG = sorted(KINDS - set(ALL.values()), key=lambda kind: kind.__name__)
STATES = st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=5, max_size=5) | st.sampled_from(sorted(ALL))


class Answered(psycopg.Error):
    """As PostgreSQL would have sent it."""

    def __init__(self, sqlstate: str, severity: str | None = "ERROR", function: str = "errstart") -> None:
        super().__init__("no")
        self.sqlstate = sqlstate
        self.severity = severity
        self.function = function

    @property
    def diag(self) -> errors.Diagnostic:
        return errors.Diagnostic(
            {
                DiagnosticField.SEVERITY_NONLOCALIZED: (self.severity or "").encode(),
                DiagnosticField.SOURCE_FUNCTION: self.function.encode(),
            }
        )


def test_the_list_is_psycopgs() -> None:
    assert len(ALL) > 200
    assert {"22", "23", "25", "40", "42", "53", "54", "55", "57", "58", "P0", "XX"} <= {state[:2] for state in ALL}


@pytest.mark.parametrize("sqlstate", sorted(ALL))
def test_each_sqlstate(sqlstate: str) -> None:
    expected = BY_CODE.get(sqlstate, BY_CLASS.get(sqlstate[:2], Meaning.OUTAGE))
    assert meaning_of(ALL[sqlstate]("no")) is expected
    assert meaning_of(Answered(sqlstate)) is expected
    is_of_the_session = sqlstate[:2] in {"08", "25", "26", "0A"} or sqlstate[:3] == "57P"
    is_of_the_session = is_of_the_session or sqlstate in {"42P03", "42P05"}
    assert was_answered(Answered(sqlstate)) is not is_of_the_session


@given(
    st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=5, max_size=5),
    st.sampled_from(["ERROR", "FATAL", "PANIC"]),
)
def test_any_sqlstate(sqlstate: str, severity: str) -> None:
    error = Answered(sqlstate, severity)
    if severity != "ERROR":
        assert meaning_of(error) is Meaning.OUTAGE
        assert not was_answered(error)
    else:
        assert meaning_of(error) is BY_CODE.get(sqlstate, BY_CLASS.get(sqlstate[:2], Meaning.OUTAGE))


def test_a_full_queue_of_notifications_says_nothing_of_the_data() -> None:
    """Its SQLSTATE is that of data that is too large: only the function in PostgreSQL tells one from the other."""
    assert meaning_of(Answered("54000")) is Meaning.REFUSAL
    assert meaning_of(Answered("54000", function="PreCommit_Notify")) is Meaning.OUTAGE


@pytest.mark.parametrize("kind", OF_PSYCOPG, ids=lambda kind: kind.__name__)
def test_what_has_no_sqlstate_is_an_outage(kind: type[psycopg.Error]) -> None:
    assert meaning_of(kind("no")) is Meaning.OUTAGE
    assert not was_answered(kind("no"))


def test_the_error_that_another_was_made_from() -> None:
    cause = errors.LockNotAvailable("no")
    error = ValueError("no")
    assert answer_of(error) is None
    error.__cause__ = cause
    assert answer_of(error) is cause
    assert answer_of(cause) is cause


@pytest.mark.parametrize("sqlstate", sorted(ALL))
def test_what_a_row_may_be_to_blame_for(sqlstate: str) -> None:
    """Nothing that anybody else may be, such as a full disk or a lock; also as the cause of another error."""
    of_time = sqlstate == "57014"
    of_rows = of_time or sqlstate[:2] in {"22", "54", "58", "XX"}
    wrapped = DatabaseUnavailable("no")
    wrapped.__cause__ = Answered(sqlstate)
    assert is_of_time(ALL[sqlstate]("no")) is of_time
    assert is_of_what_was_read(ALL[sqlstate]("no")) is is_of_what_was_read(wrapped) is of_rows
    assert not is_of_what_was_read(Answered(sqlstate, "FATAL")) or of_time


def test_no_answer_at_all_is_a_matter_of_time_but_no_connection_is_not() -> None:
    silence, unreachable = DatabaseUnavailable("no answer"), DatabaseUnavailable("no connection")
    unreachable.__cause__ = psycopg.OperationalError("no")
    assert is_of_time(silence)
    assert is_of_what_was_read(silence)
    assert not is_of_what_was_read(unreachable)
    assert not is_of_what_was_read(ValueError("no"))
