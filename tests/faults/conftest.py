"""What the fault tests start from: a seed that is told when a test fails, and a harness."""

import os
import random
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from tests.faults.fault_harness import FaultHarness, open_fault_harness
from tests.faults.figures import ANSWERS
from tests.faults.scale import scale

HARNESS = pytest.StashKey[FaultHarness]()
SEED_VARIABLE = "REQUEUEST_FAULTS_SEED"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests whose loops are longer may take longer."""
    if scale() > 1:
        limit = float(config.getini("timeout")) * scale()
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.timeout(limit))


@pytest.fixture
def seed() -> int:
    """All chance in a test comes from it. `REQUEUEST_FAULTS_SEED=...` repeats what a failed test was given."""
    return int(os.environ.get(SEED_VARIABLE) or random.randrange(2**32))


@pytest.fixture
async def harness(
    migrated_dsn: str, tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> AsyncIterator[FaultHarness]:
    """A database with the schema in place, and the means to start programs on it and to judge what they did."""
    async with open_fault_harness(migrated_dsn, tmp_path, seed) as opened:
        request.node.stash[HARNESS] = opened
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    A test that has failed tells its seed, what its programs did last, and what the database was doing.

    Each that has judged its history tells of the answers, to be summed up in the end.
    """
    report = yield
    harness = item.stash.get(HARNESS, None)
    if harness is not None and harness.answers is not None and report.when == "call":
        stored, different, lost = harness.answers
        report.user_properties.append((ANSWERS, (stored, len(different), len(lost))))
    if harness is not None and report.failed:
        report.sections.append(("what the programs did", harness.epitaph))
    return report
