"""The events: what is fixed about each, what can stand in their fields, and what the log makes of them."""

import ast
import inspect
import json
import logging
import re
from collections.abc import Iterator, KeysView
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import get_args, get_type_hints
from uuid import UUID

import pytest

import requeuest_trio
from requeuest_trio import ALL, JobState
from requeuest_trio import events as public_events
from requeuest_trio._model.channel import All
from requeuest_trio._model.job import Reached
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._observe.event import Event

SOURCE = Path(requeuest_trio.__file__).parent
KINDS: list[type[Event]] = [getattr(events, name) for name in events.__all__]
PER_JOB = {"job", "number"}
"""Fields that only an event about a single job has."""
JOB_ID = UUID(int=7)
TREES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def names_of(kind: type[Event]) -> KeysView[str]:
    """In their order."""
    return {field.name: None for field in fields(kind)}.keys()  # type: ignore[arg-type]  # each kind is a dataclass


def made(kind: type[Event], text: str) -> Iterator[Event]:
    """Events of a kind with this text wherever one can be, and with each other type of value that a field can have."""
    samples: dict[object, object] = {
        str: text, int: 3, float: 2.5, UUID: JOB_ID, JobState: JobState.DEAD, Reached: Reached.SENT,
        type(None): None, All: ALL, tuple[str, ...]: (text, "mail"),
    }  # fmt: skip
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name in names_of(kind)}
    choices = {name: [hint] if hint in samples else list(get_args(hint)) for name, hint in hints.items()}
    for turn in range(max(map(len, choices.values()))):
        yield kind(**{name: samples[types[turn % len(types)]] for name, types in choices.items()})


def constructions() -> Iterator[str]:
    """The kinds that the code makes events of, by their names."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (name := re.match(r"events\.([A-Z]\w+)$", ast.unparse(node.func))):
                yield name[1]


def test_every_event_is_public() -> None:
    assert set(public_events.__all__) == {"Event", *events.__all__}


def test_every_event_is_emitted_somewhere() -> None:
    assert set(constructions()) == set(events.__all__)


def logging_calls(tree: ast.Module) -> list[str]:
    methods = {"debug", "info", "warning", "error", "exception", "critical", "log"}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    attributes = [call for call in calls if isinstance(call, ast.Attribute) and call.attr in methods]
    return [ast.unparse(call) for call in attributes if "logg" in ast.unparse(call.value)]


def test_nothing_else_logs() -> None:
    """What the queue logs is its events. Two rooms know nothing of the queue."""
    rooms = {path: tree for path, tree in TREES.items() if path.parent.name not in {"_postgres", "_embedded"}}
    assert [path.name for path, tree in rooms.items() if logging_calls(tree)] == ["log.py"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_is_that_of_the_class_and_the_meaning_its_docstring(kind: type[Event]) -> None:
    assert re.fullmatch("[a-z]+(_[a-z]+)*", kind.name)
    assert kind.name.replace("_", "") == kind.__name__.lower()
    assert (inspect.getdoc(kind) or "").endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_at_info_for_each_job(kind: type[Event]) -> None:
    if PER_JOB & names_of(kind):
        exceptions: dict[type[Event], int] = {
            events.JobDead: logging.WARNING,
            events.OutcomeRefused: logging.ERROR,
        }
        assert kind.level == exceptions.get(kind, logging.DEBUG)
    assert kind.level in {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR}


def test_an_event_is_a_value() -> None:
    event, same = (events.JobDead(job=JOB_ID, channel="a", attempts=2, status=None, error=None) for _ in range(2))
    assert event == same
    assert hash(event) == hash(same)
    with pytest.raises(FrozenInstanceError):
        event.channel = "b"  # type: ignore[misc]  # the checker knows that it is frozen, and so must the event
    assert event != events.JobDead(job=JOB_ID, channel="b", attempts=2, status=None, error=None)


def test_record_has_name_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Emitter()
    with caplog.at_level(logging.WARNING, "requeuest_trio.attempt"):
        emitter.emit(events.JobDead(job=JOB_ID, channel="mail", attempts=2, status=None, error="50% %s {x}"))
        emitter.emit(
            events.Attempt(
                job=JOB_ID,
                number=1,
                state=JobState.SUCCEEDED,
                status=200,
                reached=Reached.RESPONSE,
                duration=0.1,
                error=None,
            )
        )
    [record] = caplog.records
    assert record.name == "requeuest_trio.recorder"
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"job_dead job={JOB_ID} channel=mail attempts=2 status=None error=50% %s {{x}}"
    assert record.__dict__["event"] == "job_dead"
    assert record.__dict__["fields"]["attempts"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_fields_can_be_written_as_json(caplog: pytest.LogCaptureFixture, kind: type[Event]) -> None:
    emitter, written = Emitter(), []
    with caplog.at_level(logging.DEBUG, "requeuest_trio"):
        for event in made(kind, "a"):
            emitter.emit(event)
            written.append(event.fields())
    assert [record.__dict__["fields"] for record in caplog.records] == written
    for values in written:
        assert list(values) == list(names_of(kind))
        assert json.loads(json.dumps(values)) == values
        assert {type(value) for value in values.values()} <= {str, int, float, list, type(None)}


def test_ids_states_and_channels_are_written_as_words() -> None:
    opened = events.Opened(channels=("a", "b\n"), worker=JOB_ID)
    assert opened.fields() == {"channels": ["a", "b\\n"], "worker": str(JOB_ID)}
    assert events.Opened(channels=ALL, worker=JOB_ID).fields()["channels"] == "ALL"
    assert str(events.Pruned(jobs=1, state=JobState.DEAD)) == "pruned jobs=1 state=dead"
    assert events.Pruned(jobs=1, state=JobState.DEAD).state is JobState.DEAD


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("char", ["\n", "\r", "\x1b", "\x85", "\u2028", "\u202e", "\0", "\ud800", "\x7f"])
def test_nothing_steers_a_line(caplog: pytest.LogCaptureFixture, kind: type[Event], char: str) -> None:
    """Names of channels come from rows, errors from receivers: in whichever field."""
    with caplog.at_level(logging.DEBUG, "requeuest_trio"):
        for event in made(kind, f"mail{char}job_dead job=2"):
            assert char not in str(event)
            assert char not in "".join(str(getattr(event, name)) for name in names_of(kind))
            Emitter().emit(event)
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert char not in str(record.__dict__["fields"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_cut(kind: type[Event]) -> None:
    for event in made(kind, "c" * 100_000):
        texts = [text for value in event.fields().values() for text in (value if isinstance(value, list) else [value])]
        assert all(len(text) <= 1_003 for text in texts if isinstance(text, str))
