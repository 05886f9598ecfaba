"""How long the fault tests run: `REQUEUEST_FAULTS_SCALE=20` makes the numbers of their loops twenty times as large."""

import os

VARIABLE = "REQUEUEST_FAULTS_SCALE"


def scale() -> float:
    """1 in every `make test`; more for long runs."""
    return float(os.environ.get(VARIABLE, "1"))


def scaled(number: int, most: int | None = None) -> int:
    """So many of something, in the tier that is being run; never more than `most`."""
    wanted = max(1, round(number * scale()))
    return wanted if most is None else min(wanted, most)
