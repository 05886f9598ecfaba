"""What contributors run and write: the targets of make, the hooks before a commit, the lines for the changelog."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def test_make_help_tells_what_every_target_does() -> None:
    told = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [targets] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert re.findall(r"^make (\w+) +\S", told, re.MULTILINE) == targets.split()


def test_hooks_fetch_nothing_and_run_what_make_check_runs() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert re.findall(r"^ *- repo: (.*)$", hooks, re.MULTILINE) == ["local"]
    entries = re.findall(r"^ *entry: (\S+)", hooks, re.MULTILINE)
    [check] = re.findall(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert set(entries) == {f".venv/bin/{tool}" for tool in re.findall(r"\$\(BIN\)/([\w-]+)", check)}


FRAGMENTS = sorted(path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md")


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_a_line_for_the_changelog_is_named_and_written_as_told(path: Path) -> None:
    kinds = "|".join(kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"])
    assert re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({kinds})(\.\d+)?\.md", path.name)
    text = path.read_text("utf-8")
    assert re.fullmatch(r"[A-Z`].*\.\n", text, re.DOTALL), "whole sentences"
    assert not re.search(r"^[#*-] |\n\n", text, re.MULTILINE), "one paragraph, without a mark"
    assert max(map(len, text.splitlines())) <= 120


def test_towncrier_makes_a_section_of_them() -> None:
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9", "--date", "2100-01-01"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "## 9.9.9 (2100-01-01)" in made
    assert all(path.read_text("utf-8").split()[0] in made for path in FRAGMENTS)
