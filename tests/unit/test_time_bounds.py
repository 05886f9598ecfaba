"""Each function that takes text or bytes of strangers has a row in the table of those whose time is measured."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import requeuest_trio
from requeuest_trio._store.statements import Statements
from tests.foreign_text import BOUNDED, EXEMPT

ROOMS = (
    "_config", "_http.", "_model.", "_store.claimed", "_store.outcomes", "_store.parsing", "_store.reading",
    "_engine.listener", "cli.display", "cli.documents", "cli.dsn", "cli.table",
)  # fmt: skip
FOREIGN = re.compile(
    r"\b(str|bytes|bytearray|memoryview|object|Any|Headers|RawHeaders|HeaderSource|Mapping|Sequence|Exception"
    r"|BaseException|Claimed|Job|Attempt|Answer|Delivery)\b"
)


def functions_of(module: Any) -> Iterator[tuple[str, Any]]:
    """The public functions and methods that a module defines itself."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing) and issubclass(thing, Statements):
            # It passes on to PostgreSQL what it is given, and reads rows by functions that are looked at by themselves.
            continue
        if not inspect.isclass(thing):
            if callable(thing):
                yield name, inspect.unwrap(thing)
            continue
        for part, member in vars(thing).items():
            function = inspect.unwrap(getattr(member, "__func__", member))
            is_written = isinstance(function, FunctionType) and function.__code__.co_filename == module.__file__
            if is_written and (not part.startswith("_") or part == "__init__"):
                yield f"{name}.{part}", function


def takers() -> Iterator[str]:
    """The names of all that take text, bytes, or what holds some."""
    for module in pkgutil.walk_packages(requeuest_trio.__path__, "requeuest_trio."):
        room = module.name.removeprefix("requeuest_trio.")
        if not room.startswith(ROOMS):
            continue
        for name, function in functions_of(importlib.import_module(module.name)):
            parameters = inspect.signature(function).parameters.values()
            if any(FOREIGN.search(str(each.annotation)) for each in parameters if each.annotation is not each.empty):
                yield f"{room}.{name}"


def test_every_function_that_takes_foreign_text_is_in_the_table() -> None:
    missing = set(takers()) - BOUNDED.keys() - EXEMPT.keys()
    assert not missing, "give each a row in BOUNDED, with the shapes that may hurt it, or one in EXEMPT with the reason"


def test_no_row_is_left_of_what_is_gone() -> None:
    found = set(takers())
    beside = {"_engine.listener.Listener", "_model.request.Request.__repr__", "_observe.event.Event.__str__",
              "_store.claimed.Claimed.read", "_store.claimed.Claimed.__repr__"}  # fmt: skip
    assert EXEMPT.keys() <= found
    assert BOUNDED.keys() - beside <= found
    assert not BOUNDED.keys() & EXEMPT.keys()
