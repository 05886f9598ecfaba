"""Runs a contestant's worker, until the line to the conductor is cut."""

import anyio

from benchmarks.contestants import WorkerOptions, load
from benchmarks.programs import control

if __name__ == "__main__":
    given = control.arguments()
    contestant = load(given["contestant"])
    control.wait_for_go()
    anyio.run(
        contestant.work,
        WorkerOptions(**given["options"]),
        backend=contestant.backend,
        backend_options=contestant.backend_options,
    )
