"""What an error of PostgreSQL means: the one place that decides it, by SQLSTATE. Pure.

The default is an outage, after which everything is tried again whole: poolers and managed servers have errors of their
own, with SQLSTATEs of their own or with none, and an error that was misread as a refusal would cost an answer.
"""

from __future__ import annotations

from enum import Enum

import psycopg
from psycopg import errors
from psycopg.pq import DiagnosticField

from requeuest_trio._model.errors import DatabaseUnavailable
from requeuest_trio._model.escaping import escaped

__all__ = [
    "Meaning",
    "answer_of",
    "complaint_of",
    "is_lasting",
    "is_of_code",
    "is_of_notify_queue",
    "is_of_time",
    "is_of_what_was_read",
    "meaning_of",
    "was_answered",
    "without_contents",
]


class Meaning(Enum):
    """What follows from an error for whoever asked."""

    OUTAGE = "outage"
    """Nothing is known of what was asked: try it again, whole, later."""
    REFUSAL = "refusal"
    """The data itself can't be stored, now or later."""
    CONFLICT = "conflict"
    """Another transaction was in the way, and nothing was done: try it again."""
    FORBIDDEN = "forbidden"
    """The role lacks a right, until somebody grants it."""
    MISUSE = "misuse"
    """The statement and the schema do not fit together, until somebody migrates it."""


_MEANINGS = {
    "22": Meaning.REFUSAL,  # data exception
    "23": Meaning.REFUSAL,  # integrity constraint violation
    "54": Meaning.REFUSAL,  # program limit exceeded
    "40": Meaning.CONFLICT,  # transaction rollback, such as after a deadlock
    "40003": Meaning.OUTAGE,  # statement completion unknown
    "55006": Meaning.CONFLICT,  # object in use
    "55P03": Meaning.CONFLICT,  # lock not available
    "42": Meaning.MISUSE,  # syntax error, or something that does not exist
    "42501": Meaning.FORBIDDEN,  # insufficient privilege
    "42P03": Meaning.OUTAGE,  # duplicate cursor: the session is not what it was taken for
    "42P05": Meaning.OUTAGE,  # duplicate prepared statement: the same
    "3F": Meaning.MISUSE,  # invalid schema name
}
"""By a whole SQLSTATE, or by its class."""

_MOST_CAUSES = 20

_IN_DOUBT = ("08", "57P", "25", "26", "0A", "42P03", "42P05")
"""What says nothing of the statement, but that it has met the wrong session: one that is lost or shut down (08, 57P),
in a state, or on a server, that takes no such statement (25, such as a replica's), or whose prepared statements and
cursors are not what they were taken for. A plan that no longer fits its table is 0A."""


_OF_ROWS = ("22", "54", "58", "XX")
"""What PostgreSQL says of a row that it can't read: it is no text of the database's encoding, it is too large, its page
can't be read, or is not what it should be."""


_LASTING = ("0A", "0L", "0P", "22", "23", "2B", "2F", "38", "39", "3F", "42", "44", "54", "55000", "P0")
"""What comes of definitions and data alone, by a beginning of the SQLSTATE."""


_OF_SURROUNDINGS = ("42501", "53", "58")
"""A right that is lacking, and what the server lacks."""
_WAITS = ("ProcessInterrupts", "DeadLockReport")
"""Where PostgreSQL gives up to wait for a lock, also on behalf of code; what code raises comes from elsewhere."""


def meaning_of(error: psycopg.Error) -> Meaning:
    """What an error means. Without a SQLSTATE it is psycopg's or libpq's own, and so an outage."""
    state = error.sqlstate or ""
    if _is_fatal(error) or is_of_notify_queue(error):
        return Meaning.OUTAGE
    return _MEANINGS.get(state) or _MEANINGS.get(state[:2], Meaning.OUTAGE)


def was_answered(error: psycopg.Error) -> bool:
    """Whether PostgreSQL has said something about the statement itself, and the session goes on.

    If not, the connection is to be closed: what else would come over it is in doubt, an answer to an earlier question
    included.
    """
    return error.sqlstate is not None and not error.sqlstate.startswith(_IN_DOUBT) and not _is_fatal(error)


def is_of_notify_queue(error: psycopg.Error) -> bool:
    """Whether a commit was refused, with a SQLSTATE for data, because the server has no room for what it announces."""
    return error.diag.source_function == "PreCommit_Notify"


def without_contents(error: psycopg.Error) -> psycopg.Error:
    """The same error, and those it came from, in one line each, without what may be secret.

    Details, hints and contexts of PostgreSQL show rows; the frames of psycopg hold parameters and connection strings.
    Names that others chose stand in the rest.
    """
    link: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if link is None:
            break
        link.__traceback__ = None
        if isinstance(link, psycopg.Error):
            diag = link.diag
            kept: dict[int, bytes | None] = {field: value.encode() for field, value in _kept(diag) if value is not None}
            psycopg.Error.__init__(link, escaped(str(link).strip().partition("\n")[0]), info=kept or None)
        link = link.__cause__ or link.__context__
    return error


def _kept(diag: psycopg.errors.Diagnostic) -> list[tuple[DiagnosticField, str | None]]:
    return [
        (DiagnosticField.SEVERITY, diag.severity),
        (DiagnosticField.SEVERITY_NONLOCALIZED, diag.severity_nonlocalized),
        (DiagnosticField.SQLSTATE, diag.sqlstate),
        (DiagnosticField.MESSAGE_PRIMARY, diag.message_primary),
        (DiagnosticField.TABLE_NAME, diag.table_name),
        (DiagnosticField.COLUMN_NAME, diag.column_name),
        (DiagnosticField.CONSTRAINT_NAME, diag.constraint_name),
        (DiagnosticField.SOURCE_FUNCTION, diag.source_function),
    ]


def answer_of(error: BaseException) -> psycopg.Error | None:
    """The error of psycopg that another was made from, or that it is itself."""
    found = error if isinstance(error, psycopg.Error) else error.__cause__
    return found if isinstance(found, psycopg.Error) else None


def complaint_of(error: Exception) -> psycopg.Error | None:
    """What was said of a statement, if it may be the fault of something in it.

    In an outage it is not, nor if the schema, or what the role may do, does not fit. Of data that can't be passed on,
    psycopg itself complains.
    """
    answer = answer_of(error)
    if answer is None or meaning_of(answer) in {Meaning.FORBIDDEN, Meaning.MISUSE}:
        return None
    return answer if was_answered(answer) or isinstance(answer, psycopg.DataError) else None


def is_lasting(error: psycopg.Error) -> bool:
    """Whether a statement by itself, in a session without prepared ones, meets the same as often as it is tried.

    That is narrower than everything that is no outage, which may be somebody's own SQLSTATE: these are PostgreSQL's for
    definitions, dependences and code of an application's, such as an event trigger. A missing right has its own words.
    """
    is_right = isinstance(error, errors.InsufficientPrivilege)
    return not is_right and not _is_fatal(error) and (error.sqlstate or "").startswith(_LASTING)


def is_of_code(error: psycopg.Error) -> bool:
    """Whether code in the database, such as that of an event trigger, has raised it, with a SQLSTATE that others have.

    A lock that it has waited for is none of that, nor is a lack of room; what `is_lasting` needs no second try.
    """
    diag = error.diag
    return (
        bool(diag.context)
        and diag.source_function not in _WAITS
        and not _is_fatal(error)
        and not is_lasting(error)
        and not (error.sqlstate or "").startswith(_OF_SURROUNDINGS)
    )


def is_of_time(error: BaseException) -> bool:
    """Whether a statement has taken more than its time: PostgreSQL has said so, or nothing at all."""
    answer = answer_of(error)
    if answer is None:
        return isinstance(error, DatabaseUnavailable) and error.__cause__ is None
    return answer.sqlstate == errors.QueryCanceled.sqlstate


def is_of_what_was_read(error: BaseException) -> bool:
    """Whether a statement may have failed of the rows that it has read: of their size, or of what became of them."""
    answer = answer_of(error)
    if answer is None or _is_fatal(answer):
        return is_of_time(error)
    return is_of_time(error) or (answer.sqlstate or "").startswith(_OF_ROWS)


def _is_fatal(error: psycopg.Error) -> bool:
    return (error.diag.severity_nonlocalized or error.diag.severity) in {"FATAL", "PANIC"}
