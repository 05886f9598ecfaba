"""The public face: exactly what the contract names, all of it documented, every example true."""

import doctest
import importlib
import inspect
import pkgutil
import re
import tomllib
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import requeuest_trio
import requeuest_trio.checks
import requeuest_trio.events
import requeuest_trio.masking
import requeuest_trio.testing

CONTRACT = {
    "ALL", "All", "Attempt", "Channel", "Client", "Config", "DatabaseUnavailable", "Event", "InvalidRequest", "Job",
    "JobCancelled", "JobDead", "JobNotFound", "JobState", "Reached", "Request", "RequeuestError", "RetryPolicy",
    "SchemaMismatch", "SpawnOptions", "Stats", "StatusClass", "TrioConnection", "TrioTransport", "migrate",
    "open_requeuest",
}  # fmt: skip
FACES = [requeuest_trio, requeuest_trio.checks, requeuest_trio.events, requeuest_trio.masking, requeuest_trio.testing]
PUBLIC = [(face, name) for face in FACES for name in face.__all__]
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(requeuest_trio.__path__, "requeuest_trio.")
    if not found.name.startswith("requeuest_trio.cli") and not found.name.endswith("__main__")
]


def test_names_are_those_of_the_contract() -> None:
    assert set(requeuest_trio.__all__) == CONTRACT


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_all_is_sorted_and_complete(face: ModuleType) -> None:
    assert sorted(face.__all__) == face.__all__
    defined = {
        name
        for name, value in vars(face).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and (getattr(value, "__module__", "").startswith("requeuest_trio") and name != "raise_bare")
    }
    assert defined <= set(face.__all__)


def test_all_that_is_private_is_forbidden_to_the_command() -> None:
    """import-linter, which looks at the imports, knows no pattern for it."""
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    [forbidden] = [
        contract["forbidden_modules"]
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract.get("source_modules") == ["requeuest_trio.cli"]
    ]
    rooms = {module.name for module in pkgutil.iter_modules(requeuest_trio.__path__) if module.name.startswith("_")}
    assert set(forbidden) == {f"requeuest_trio.{name}" for name in rooms - {"__main__"}}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_inner_modules_say_what_they_offer(module: ModuleType) -> None:
    for name in getattr(module, "__all__", ()):
        assert hasattr(module, name)


def members(value: Any) -> list[tuple[str, Any]]:
    """The public methods and properties that a class of ours defines itself."""
    if not isinstance(value, type):
        return []
    return [
        (f"{owner.__name__}.{name}", member)
        for owner in value.__mro__
        if owner.__module__.startswith("requeuest_trio")
        for name, member in vars(owner).items()
        if not name.startswith("_") and isinstance(member, FunctionType | classmethod | staticmethod | property)
    ]


@pytest.mark.parametrize(("face", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_public_name_is_documented(face: ModuleType, name: str) -> None:
    value = getattr(face, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}("), "that is what dataclass writes"
    assert [member for member, function in members(value) if not inspect.getdoc(function)] == []


WAITING = [
    requeuest_trio.migrate,
    requeuest_trio.open_requeuest,
    requeuest_trio.testing.open_receiver,
    *(method for name, method in members(requeuest_trio.Client) if name != "Client.close"),
]


@pytest.mark.parametrize("function", WAITING, ids=lambda function: function.__name__)
def test_what_may_wait_says_what_it_takes_raises_and_guarantees(function: FunctionType) -> None:
    docs = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    wanted = {"Raises", "Guarantee", "Cancellation", "Example"}
    if signature.parameters.keys() - {"self"} and not re.search(r"those of\s+`spawn`", docs):
        wanted.add("Args")
    if signature.return_annotation != "None" and not inspect.isasyncgenfunction(inspect.unwrap(function)):
        wanted.add("Returns")
    assert wanted <= set(re.findall(r"^(\w+):(?::$| |$)", docs, re.MULTILINE))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module: ModuleType) -> None:
    """Those with a prompt; the others stand in the docs, where all blocks run."""
    result = doctest.testmod(module, extraglobs=vars(requeuest_trio))
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert sum(bool(found.examples) for module in MODULES for found in finder.find(module)) >= 3
