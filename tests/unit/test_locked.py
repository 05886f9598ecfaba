"""What is installed is what is locked: pyproject.toml, uv.lock and the exports in requirements/ agree."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKED = {one["name"]: one.get("version") for one in tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]}
RUN = [
    *PROJECT["project"]["dependencies"],
    *(one for extra in PROJECT["project"]["optional-dependencies"].values() for one in extra),
]
GROUPS: dict[str, list[str]] = {"run": [], **PROJECT["dependency-groups"]}


def exported(name: str) -> list[str]:
    """The entries of an export, each with its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in exported(name):
        pinned = re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;]+)", line)
        assert pinned is not None, line
        found[canonicalize_name(pinned[1])] = pinned[2]
    return found


@pytest.mark.parametrize("name", GROUPS)
def test_an_export_meets_what_the_project_asks_for(name: str) -> None:
    found: dict[str, Any] = pins(name)
    for text in [*([] if name == "build" else RUN), *GROUPS[name]]:
        wanted = Requirement(text)
        if canonicalize_name(wanted.name) != PROJECT["project"]["name"]:
            assert wanted.specifier.contains(found[canonicalize_name(wanted.name)]), text


@pytest.mark.parametrize("name", GROUPS)
def test_an_export_is_that_of_the_lock(name: str) -> None:
    assert {package: LOCKED[package] for package in pins(name)} == pins(name)


@pytest.mark.parametrize("name", GROUPS)
def test_whatever_is_installed_is_known_by_its_hash_and_no_host_is_named(name: str) -> None:
    assert [line for line in exported(name) if "--hash=sha256:" not in line or "://" in line] == []


def test_the_lock_is_of_this_project() -> None:
    """The requirements that uv has written down are those of pyproject.toml."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
    [own] = [one for one in lock["package"] if one["name"] == PROJECT["project"]["name"]]
    written = {(one["name"], one.get("specifier", "")) for one in own["metadata"]["requires-dist"]}
    asked = {(canonicalize_name(one.name), str(one.specifier)) for one in map(Requirement, RUN)}
    assert written == asked


def test_what_builds_the_project_is_locked_as_well() -> None:
    """`make` installs the project without build isolation: an isolated build would fetch what nobody has pinned."""
    found = pins("build")
    for wanted in map(Requirement, PROJECT["build-system"]["requires"]):
        assert wanted.specifier.contains(found[canonicalize_name(wanted.name)])
    installs = re.findall(r"INSTALL\) (.*)", (ROOT / "Makefile").read_text("utf-8"))
    assert installs == ["$(LOCKED) requirements/$*.txt", "--no-deps --no-build-isolation --editable ."]


@pytest.mark.parametrize("name", GROUPS)
def test_no_two_exports_ask_for_two_versions(name: str) -> None:
    """They are installed together: what builds the project, and one of the others."""
    other = pins(name)
    assert {package: other.get(package, version) for package, version in pins("build").items()} == pins("build")
