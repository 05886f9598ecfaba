"""The page on security claims nothing without a test, and every guard it speaks of by name has a mutant."""

import re
from pathlib import Path

from tests.faults.mutations import mutants

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
HOLDS = PAGE.partition("## What holds")[2].partition("## What does not hold")[0]
SENTENCES = re.split(r"(?<=[).])\s+(?=[A-Z])", re.sub(r"^#.*$", "", HOLDS, flags=re.MULTILINE))
NAMED = sorted(set(re.findall(r"`([\w/]+/test_\w+\.py)((?:::\w+)?)`", HOLDS)))


def test_whoever_says_cannot_names_the_test() -> None:
    claims = [sentence for sentence in SENTENCES if "cannot" in sentence]
    assert len(claims) > 5
    assert [claim for claim in claims if not re.search(r"`[\w/]+/test_\w+\.py", claim)] == []


def test_the_named_tests_exist() -> None:
    assert NAMED
    for path, name in NAMED:
        source = (ROOT / "tests" / path).read_text("utf-8")
        assert re.search(rf"^(async )?def {name.removeprefix('::') or 'test_'}", source, re.MULTILINE), path + name


def test_each_named_guard_has_a_mutant() -> None:
    """A file of tests that is named as a whole has one that one of its tests notices."""
    noticed = {test.removeprefix("tests/").partition("[")[0] for mutant in mutants() for test in mutant.noticed_by}
    files = {test.partition("::")[0] for test in noticed}
    assert [path + name for path, name in NAMED if path + name not in noticed and (name or path not in files)] == []
