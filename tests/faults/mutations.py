"""
Do the tests notice? Each mutant of `mutants.toml` breaks one thing that a promise rests on, and one of the tests that
it names has to fail of it.

    python -m tests.faults.mutations            all of them; prints docs/mutations.md
    python -m tests.faults.mutations lease key  those whose names contain one of the words
    python -m tests.faults.mutations --missing  those that have no line in docs/mutations.md; prints it with their lines

The tests are run on the code as it is first, since one that fails there notices nothing. Each mutant has a copy of the
project of its own, and two are tried at a time. The status is 1 if nobody notices one.
"""

# ruff: noqa: T201 - prints a table

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.toml")
TABLE = PROJECT / "docs" / "mutations.md"
COPIED = (
    "src", "migrations", "tests", "docs", "benchmarks", "requirements", "uv.lock",
    "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile",
)  # fmt: skip
AT_ONCE = 2
TEST_SECONDS = 60
PATIENCE = 300
HEAD = """\
# What the tests notice

Each line is a change of the code that breaks something on which an invariant (I1 to I10, in `tests/faults/checker.py`)
or a promise (1 to 10, in the order of [guarantees](guarantees.md)) rests, and the test that fails of it. The table
is made by `python -m tests.faults.mutations`, which tries the changes of `tests/faults/mutants.toml` one by one and
fails if one of them goes unnoticed. With `--missing` it tries those that have no line yet, and keeps the other lines.

| what is broken | which breaks | in | noticed by |
|---|---|---|---|"""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one file."""

    name: str
    promise: str
    """The invariants (see `checker.py`) or promises (see docs/guarantees.md) that it breaks."""
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


def main(arguments: Sequence[str]) -> int:
    """Try the mutants, and print what became of each."""
    kept = _lines_of_the_table() if arguments == ["--missing"] else {}
    words = [] if kept else arguments
    listed = [mutant for mutant in mutants() if not words or any(word in mutant.name for word in words)]
    chosen = [mutant for mutant in listed if mutant not in kept]
    if not listed:
        sys.exit(f"no mutant's name contains {' or '.join(words)}\n{__doc__}")
    survivors = 0
    with _copy(PROJECT) as original:
        tests = sorted({test for mutant in chosen for test in mutant.noticed_by})
        if tests and (failed := _first_failure(original, tests, PATIENCE * len(tests))):
            sys.exit(f"without any mutant: {failed}")
        print(HEAD, flush=True)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            tried = threads.map(partial(_try, original), chosen)
            for mutant in listed:
                failed = None if mutant in kept else next(tried)
                print(kept.get(mutant) or _line(mutant, failed), flush=True)
                survivors += mutant not in kept and failed is None
    print(f"\n{len(listed) - survivors} of {len(listed)} are noticed.")
    return 1 if survivors else 0


def _line(mutant: Mutant, failed: str | None) -> str:
    module, noticed_by = mutant.path.removeprefix("src/requeuest_trio/"), f"`{failed}`" if failed else "**nobody**"
    return f"| {mutant.name} | {mutant.promise} | `{module}` | {noticed_by} |"


def _lines_of_the_table() -> dict[Mutant, str]:
    """Those of mutants that are noticed, in the same file and by a test that still is to notice them."""
    table = TABLE.read_text("utf-8").splitlines()
    lines: dict[Mutant, str] = {}
    for mutant in mutants():
        for test in mutant.noticed_by:
            # The table names tests without their parameters, and a whole file by the first of it that fails.
            beginning = _line(mutant, test.removeprefix("tests/").partition("[")[0]).removesuffix("` |")
            lines.update((mutant, line) for line in table if line.startswith(beginning))
    return lines


def _try(original: Path, mutant: Mutant) -> str | None:
    """The test that fails with the mutant in place."""
    with _copy(original) as copy:
        path = copy / mutant.path
        path.write_text(mutant.applied_to(path.read_text("utf-8")), "utf-8")
        return next((failed for test in mutant.noticed_by if (failed := _first_failure(copy, [test], PATIENCE))), None)


@contextmanager
def _copy(project: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="requeuest-mutants-") as name:
        copy = Path(name)
        copy.chmod(0o755)  # the server's account has to get at it
        for part in COPIED:
            source = project / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        yield copy


def _first_failure(copy: Path, tests: Sequence[str], patience: float) -> str | None:
    """The first of the tests that fails, without `tests/` and its parameters. Ends the program if they can't be run."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    # Before what is installed, so that the programs which a test starts run the mutant too.
    environment = os.environ | {"PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, f"--timeout={TEST_SECONDS}", *tests],
            cwd=copy,
            env=environment | {"COLUMNS": "240"},
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return tests[0].removeprefix("tests/")
    found = re.search(r"^(?:FAILED|ERROR) tests/([^\s\[]+).*", done.stdout, re.MULTILINE)
    print(f"{time.monotonic() - began:5.1f} s  {found[0] if found else tests}", file=sys.stderr, flush=True)
    if done.returncode not in {0, 1} or (done.returncode == 1) != bool(found):
        sys.exit(f"{tests} could not be run:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")
    return found and found[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
