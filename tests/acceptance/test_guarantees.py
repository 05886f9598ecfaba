"""The page of guarantees names tests and events that there are."""

import logging
import re
from pathlib import Path

import pytest

from requeuest_trio._observe import events

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
TESTS = sorted(set(re.findall(r"`([\w/]+\.py(?:::\w+)?)`", PAGE)))
PROMISES = ["Durable", "At least once", "Fenced", "Ordered where asked", "Isolated", "Scoped", "Honest"]


@pytest.mark.parametrize("test", TESTS)
def test_a_named_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    source = (ROOT / "tests" / path).read_text("utf-8")
    assert re.search(rf"^(async )?def {name or 'test_'}", source, re.MULTILINE)


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_has_tests(promise: str) -> None:
    [section] = re.findall(rf"^## {promise}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert re.search(r"`[\w/]+/test_\w+\.py", section)
    assert "| shown by |" in section


def test_every_warning_an_operator_may_see_is_explained_here() -> None:
    kinds = [getattr(events, name) for name in events.__all__]
    warnings = {kind.name for kind in kinds if kind.level >= logging.WARNING}
    assert warnings <= set(re.findall(r"`(\w+)`", PAGE))
