"""
Puts requests into a contestant's queue, in one of these ways, and tells how long that took:

- `one by one`: each waits for the one before;
- `at once`: so many tasks, each one by one;
- `bulk`: in the way for many, so many in a call;
- `paced`: one by one with a pause before each, and tells when each was begun, and how long the call took.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import anyio

from benchmarks.contestants import Producer, load
from benchmarks.programs import control
from benchmarks.workload import Message, Workload

PAUSE = 0.02
"""Seconds; enough for a queue to be idle again."""


async def one_by_one(producer: Producer, messages: Iterator[Message]) -> None:
    """Add each when the one before is stored."""
    for message in messages:
        await producer.add(message)


async def at_once(producer: Producer, messages: Iterator[Message], width: int) -> None:
    """Let so many tasks share them out."""
    async with anyio.create_task_group() as tasks:
        for _ in range(width):
            tasks.start_soon(one_by_one, producer, messages)


async def bulk(producer: Producer, messages: Iterator[Message], width: int) -> None:
    """Add so many in one call."""
    while chunk := list(islice(messages, width)):
        await producer.add_all(chunk)


async def paced(producer: Producer, messages: Sequence[Message]) -> dict[str, Any]:
    """Add one now and then. Times are CLOCK_MONOTONIC, in nanoseconds."""
    begun, took = [], []
    for message in messages:
        await anyio.sleep(PAUSE)
        begun.append(time.monotonic_ns())
        await producer.add(message)
        took.append(time.monotonic_ns() - begun[-1])
    return {"begun": begun, "took": took}


async def add(producer: Producer, way: str, width: int, workload: Workload) -> dict[str, Any]:
    """Add all of a workload in one of the ways; what is to be told of it."""
    messages = list(workload.messages())
    began, cpu = time.monotonic(), control.cpu_seconds()
    told: dict[str, Any] = {}
    match way:
        case "one by one":
            await one_by_one(producer, iter(messages))
        case "at once":
            await at_once(producer, iter(messages), width)
        case "bulk":
            await bulk(producer, iter(messages), width)
        case "paced":
            told = await paced(producer, messages)
        case _:
            raise ValueError(way)
    return {"seconds": time.monotonic() - began, "cpu": control.cpu_seconds() - cpu, **told}


async def main(given: dict[str, Any]) -> None:
    """Open the queue, warm up in the same way, wait, and measure."""
    workload = Workload(**given["workload"])
    warm_up = replace(workload, url=f"{workload.url}/warm", jobs=given["warm_up"])
    way, width = given["way"], given["width"]
    async with load(given["contestant"]).produce(given["dsn"], given["delivers"]) as producer:
        await add(producer, way, width, warm_up)
        await anyio.to_thread.run_sync(control.wait_for_go)
        control.say(**await add(producer, way, width, workload))
        await anyio.sleep_forever()


if __name__ == "__main__":
    arguments = control.arguments()
    contestant = load(arguments["contestant"])
    anyio.run(main, arguments, backend=contestant.backend, backend_options=contestant.backend_options)
