"""The list of mutants is one of the code as it is: each applies, and names tests that there are."""

from __future__ import annotations

import re

import pytest

from tests.faults.mutations import PROJECT, Mutant, mutants


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_applies_and_names_tests_that_there_are(mutant: Mutant) -> None:
    original = (PROJECT / mutant.path).read_text("utf-8")
    assert mutant.applied_to(original) != original
    assert mutant.noticed_by
    for test in mutant.noticed_by:
        path, *names = test.partition("[")[0].split("::")
        source = (PROJECT / path).read_text("utf-8")
        for name in names or ["test_"]:
            assert re.search(rf"^ *(async def|def|class) {re.escape(name)}", source, re.MULTILINE), test


def test_every_invariant_has_a_mutant() -> None:
    invariants = {f"I{number}" for number in range(1, 11)}
    broken = {promise for mutant in mutants() for promise in mutant.promise.split(", ")}
    assert broken >= invariants
    assert broken - invariants <= {f"promise {number}" for number in range(1, 11)}


def test_no_two_mutants_are_the_same() -> None:
    for distinguished_by in ("name", "edits"):
        values = [(mutant.path, getattr(mutant, distinguished_by)) for mutant in mutants()]
        assert len(set(values)) == len(values)


def test_every_file_of_the_engine_s_tests_notices_a_mutant() -> None:
    noticing = {test.partition("::")[0] for mutant in mutants() for test in mutant.noticed_by}
    files = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "tests" / "engine").glob("test_*.py")}
    assert files - noticing == set()
