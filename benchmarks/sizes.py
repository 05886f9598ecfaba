"""How much is measured: in full, or just enough to see that everything works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Numbers of jobs, unless said otherwise."""

    drain: int
    long_drain: int
    spawn_one_by_one: int
    spawn: int
    latency: int
    backlog: int
    channels: int
    """Over which a drain is spread."""
    ordering_keys: int
    """With two jobs each."""
    large_bodies: int
    large_body: int = 100_000
    """Bytes."""


FULL = Sizes(
    drain=10_000,
    long_drain=100_000,
    spawn_one_by_one=3_000,
    spawn=10_000,
    latency=500,
    backlog=1_000_000,
    channels=1_000,
    ordering_keys=10_000,
    large_bodies=2_000,
)
QUICK = Sizes(
    drain=200,
    long_drain=400,
    spawn_one_by_one=50,
    spawn=200,
    latency=20,
    backlog=2_000,
    channels=20,
    ordering_keys=50,
    large_bodies=20,
)
