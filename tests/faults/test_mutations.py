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
        path, _, name = test.partition("::")
        source = (PROJECT / path).read_text("utf-8")
        assert re.search(rf"^(async )?def {re.escape(name) or 'test_'}", source, re.MULTILINE), test


def test_every_invariant_has_a_mutant() -> None:
    promised = {promise for mutant in mutants() for promise in mutant.promise.split(", ")}
    assert promised >= {f"I{number}" for number in range(1, 8)}
