"""The tree of errors, and what they say."""

import copy
import pickle
from uuid import UUID

import pytest

import requeuest_trio
from requeuest_trio import (
    DatabaseUnavailable,
    InvalidRequest,
    JobCancelled,
    JobDead,
    JobNotFound,
    JobState,
    RequeuestError,
    SchemaMismatch,
)
from requeuest_trio._model import errors
from requeuest_trio._model.errors import shown
from tests.unit.values import make_job

ID = UUID(int=7)
DEAD = make_job(id=ID, state=JobState.DEAD, attempts=3, error="status 500 is not accepted", response=None)

EXAMPLES = [
    (InvalidRequest("url", "must be absolute"), "url: must be absolute"),
    (SchemaMismatch("run: requeuest migrate"), "run: requeuest migrate"),
    (DatabaseUnavailable("no answer", job_ids=(ID,)), "no answer"),
    (JobNotFound(ID), f"no job has the id {ID}: it was never stored, or has been cleared or pruned"),
    (JobDead(DEAD), f"job {ID} is dead after 3 attempt(s): status 500 is not accepted"),
    (JobCancelled(DEAD), f"job {ID} was cancelled"),
]


def public_errors() -> set[type]:
    values = (getattr(requeuest_trio, name) for name in requeuest_trio.__all__)
    return {value for value in values if isinstance(value, type) and issubclass(value, BaseException)}


def test_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = {line.split("+-- ")[1].split()[0] for line in errors.__doc__.splitlines() if "+-- " in line}
    assert drawn == {error.__name__ for error in public_errors()}
    assert public_errors() == {type(example) for example, _ in EXAMPLES} | {RequeuestError}
    assert all(issubclass(error, RequeuestError) for error in public_errors())


def test_invalid_request_is_a_value_error_and_no_other_is() -> None:
    assert {error for error in public_errors() if issubclass(error, ValueError)} == {InvalidRequest}


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_text_and_copies(error: RequeuestError, text: str) -> None:
    """They cross processes: worker pools and test runners pickle them."""
    assert str(error) == text
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert str(twin) == text
        assert twin.__dict__.keys() == error.__dict__.keys()


def test_attributes() -> None:
    assert InvalidRequest("url", "no").argument == "url"
    assert JobNotFound(ID).job_id == ID
    assert JobDead(DEAD).job is DEAD
    assert DatabaseUnavailable("x").job_ids == ()
    assert pickle.loads(pickle.dumps(DatabaseUnavailable("x", job_ids=(ID,)))).job_ids == (ID,)


class Nasty:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "'a'"), (7, "7"), (Nasty(), "<Nasty>"), pytest.param(10**5_000, "<int>", id="huge"), ("\r\n", r"'\r\n'")],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_shown_is_short() -> None:
    assert all(len(shown(value)) < 210 for value in ["x" * 10**6, b"x" * 10**6, ["x"] * 10**4])
