"""One list of options for the three ways to spawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, get_type_hints
from uuid import UUID

import pytest

from requeuest_trio import Client, SpawnOptions

OPTIONS = get_type_hints(SpawnOptions)


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (Client.spawn, OPTIONS),
        (Client.spawn_many, OPTIONS | {"job_id": Sequence[UUID] | None}),
        (Client.spawn_returning, {name: kind for name, kind in OPTIONS.items() if name != "connection"}),
    ],
)
def test_each_way_to_spawn_takes_the_options(call: Callable[..., Any], options: dict[str, Any]) -> None:
    named = [name for name, parameter in signature(call).parameters.items() if parameter.kind == parameter.KEYWORD_ONLY]
    hints = get_type_hints(call)
    assert {name: hints[name] for name in named} == options
