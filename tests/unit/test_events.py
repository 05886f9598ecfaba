"""The table of what is logged, held against the code that logs."""

import ast
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

import requeuest_trio
from requeuest_trio import ALL, JobState
from requeuest_trio._model.events import Event, emit

SOURCE = Path(requeuest_trio.__file__).parent
PER_JOB = {"job", "number"}
"""Fields that only an event about a single job has."""


class Emission(NamedTuple):
    """A call of `emit` in the source."""

    where: str
    event: Event
    fields: tuple[str, ...]
    logger: str | None


def logger_name(tree: ast.Module) -> str | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_logger":
            return ast.unparse(node.value).partition("(")[2].strip(")'\"")
    return None


def emissions() -> Iterator[Emission]:
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("emit")):
                continue
            where = f"{path.relative_to(SOURCE)}:{node.lineno}"
            _, event = node.args
            assert isinstance(event, ast.Attribute), where
            assert all(keyword.arg for keyword in node.keywords), where
            fields = tuple(str(keyword.arg) for keyword in node.keywords)
            yield Emission(where, Event[event.attr], fields, logger_name(tree))


EMISSIONS = list(emissions())


@pytest.mark.parametrize("emission", EMISSIONS, ids=lambda emission: emission.where)
def test_fields_and_room_are_those_of_the_table(emission: Emission) -> None:
    assert emission.fields == emission.event.value.fields
    assert emission.logger == f"requeuest_trio.{emission.event.value.room}"


def test_every_event_is_emitted_somewhere() -> None:
    assert {emission.event for emission in EMISSIONS} == set(Event)


def logging_calls(path: Path) -> list[str]:
    methods = {"debug", "info", "warning", "error", "exception", "critical", "log"}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    attributes = [call for call in calls if isinstance(call, ast.Attribute) and call.attr in methods]
    return [ast.unparse(call) for call in attributes if "logg" in ast.unparse(call.value)]


def test_nothing_else_logs() -> None:
    """What the queue logs goes through `emit`. Two rooms know nothing of the queue."""
    rooms = [path for path in SOURCE.rglob("*.py") if path.parent.name not in {"_postgres", "_embedded"}]
    assert [path.name for path in rooms if logging_calls(path)] == ["events.py"]


def test_names_are_unique_and_are_those_of_the_members() -> None:
    assert [event.value.name.upper() for event in Event] == [event.name for event in Event]
    assert len({event.value.name for event in Event}) == len(Event)
    assert all(event.value.meaning.endswith(".") for event in Event)


@pytest.mark.parametrize("event", Event)
def test_nothing_is_at_info_for_each_job(event: Event) -> None:
    if PER_JOB & set(event.value.fields):
        exceptions = {Event.JOB_DEAD: logging.WARNING, Event.OUTCOME_REFUSED: logging.ERROR}
        assert event.value.level == exceptions.get(event, logging.DEBUG)
    assert event.value.level in {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR}


def test_record_has_name_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("requeuest_trio.attempt")
    with caplog.at_level(logging.WARNING, logger.name):
        emit(logger, Event.JOB_DEAD, job=1, channel="mail", attempts=2, status=None, error="50% %s {x}")
        emit(logger, Event.ATTEMPT, job=1)
    [record] = caplog.records
    assert record.getMessage() == "job_dead job=1 channel=mail attempts=2 status=None error=50% %s {x}"
    assert record.__dict__["event"] == "job_dead"
    assert record.__dict__["fields"]["attempts"] == 2


@pytest.mark.parametrize("event", Event)
def test_fields_can_be_written_as_json(caplog: pytest.LogCaptureFixture, event: Event) -> None:
    """Whatever the code gives `emit`, in whichever field."""
    logger = logging.getLogger("requeuest_trio.attempt")
    job_id = UUID(int=7)
    values = {
        job_id: str(job_id),
        JobState.DEAD: "dead",
        ALL: "ALL",
        ValueError("a"): "a",
        datetime(2030, 1, 1, tzinfo=UTC): "2030-01-01 00:00:00+00:00",
        (1, 2): "(1, 2)",
        2.5: 2.5,
        3: 3,
        False: False,
        None: None,
    }
    cases: list[tuple[object, object]] = [*values.items(), ([job_id, 3, "b"], [str(job_id), 3, "b"])]
    with caplog.at_level(logging.DEBUG, logger.name):
        for value, _ in cases:
            emit(logger, event, **dict.fromkeys(event.value.fields, value))
    for record, (_, written) in zip(caplog.records, cases, strict=True):
        fields = record.__dict__["fields"]
        assert fields == dict.fromkeys(event.value.fields, written)
        assert json.loads(json.dumps(fields)) == fields
        assert {type(value) for value in fields.values()} == {type(written)}


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("char", ["\n", "\r", "\x1b", "\x85", "\u2028", "\u202e", "\0", "\ud800", "\x7f"])
def test_nothing_steers_a_line(caplog: pytest.LogCaptureFixture, event: Event, char: str) -> None:
    """Names of channels come from rows, errors from receivers: in whichever field, as whatever."""
    logger = logging.getLogger("requeuest_trio.attempt")
    forged = f"mail{char}job_dead job=2"
    with caplog.at_level(logging.DEBUG, logger.name):
        for value in (forged, [forged], ValueError(forged)):
            emit(logger, event, **dict.fromkeys(event.value.fields, value))
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert char not in str(record.__dict__["fields"])


def test_a_field_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("requeuest_trio.attempt")
    emit(logger, Event.JOB_DEAD, job=1, channel="c" * 100_000, attempts=2, status=None, error=None)
    assert len(caplog.records[0].getMessage()) < 2_000
