"""
Do the tests notice? Each mutant of `mutants.toml` breaks one thing that a promise rests on, and one of the tests that
it names has to fail of it.

    python -m tests.faults.mutations            all of them, as a table
    python -m tests.faults.mutations lease key  those whose names contain one of the words

Works on a copy of the project. The status is 1 if nobody notices a mutant.
"""

# ruff: noqa: T201 - prints a table

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.toml")
COPIED = ("src", "migrations", "tests", "docs", "benchmarks", "pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")
PATIENCE = 300
NO_SUCH_TEST = 4


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one file."""

    name: str
    promise: str
    """The invariants that it breaks; see `checker.py`."""
    path: str
    noticed_by: tuple[str, ...]
    """Tests, as pytest names them."""
    edits: tuple[tuple[str, str], ...]

    def applied_to(self, text: str) -> str:
        """The file with the change. Raises `ValueError` if it does not apply."""
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: {old!r} stands {text.count(old)} times in {self.path}")
            text = text.replace(old, new)
        return text


def mutants() -> list[Mutant]:
    """All there are."""
    return [
        Mutant(
            name=entry["name"],
            promise=entry["promise"],
            path=entry["path"],
            noticed_by=tuple(entry["noticed_by"]),
            edits=tuple((edit["old"], edit["new"]) for edit in entry["edit"]),
        )
        for entry in tomllib.loads(LIST.read_text("utf-8"))["mutant"]
    ]


def main(words: Sequence[str]) -> int:
    """Try the mutants, and print what became of each."""
    chosen = [mutant for mutant in mutants() if not words or any(word in mutant.name for word in words)]
    survivors = 0
    print("| mutant | breaks | noticed by | seconds |\n|---|---|---|---|", flush=True)
    with _copy_of_the_project() as copy:
        for mutant in chosen:
            began = time.monotonic()
            noticed_by = _try(mutant, copy)
            survivors += noticed_by is None
            seconds = time.monotonic() - began
            print(f"| {mutant.name} | {mutant.promise} | {noticed_by or '**nobody**'} | {seconds:.0f} |", flush=True)
    print(f"\n{len(chosen) - survivors} of {len(chosen)} noticed")
    return 1 if survivors or not chosen else 0


@contextmanager
def _copy_of_the_project() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="requeuest-mutants-") as name:
        copy = Path(name)
        copy.chmod(0o755)  # the server's account has to get at it
        for part in COPIED:
            source = PROJECT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        yield copy


def _try(mutant: Mutant, copy: Path) -> str | None:
    """The first of its tests that fails with the mutant in place."""
    path = copy / mutant.path
    original = path.read_text("utf-8")
    path.write_text(mutant.applied_to(original), "utf-8")
    try:
        return next((test.removeprefix("tests/") for test in mutant.noticed_by if not _passes(test, copy)), None)
    finally:
        path.write_text(original, "utf-8")


def _passes(test: str, copy: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=60", test]
    # Before what is installed, so that the programs which a test starts run the mutant too.
    environment = os.environ | {"PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode == NO_SUCH_TEST:
        sys.exit(f"{test} could not be run:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
