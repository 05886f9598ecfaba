"""Names of channels that look as if something else were meant. They are names all the same, so they are not refused."""

import sys

__all__ = ["remark_on"]

_EVERY = frozenset({"*", "all"})


def remark_on(name: str, several: str) -> None:
    """Say on standard error that this is one channel, if one could think otherwise.

    Args:
        name: of a channel, as it was given.
        several: how to name several of them.
    """
    if "," in name:
        print(f"requeuest: {name!r} is one channel, with a comma in its name; {several}", file=sys.stderr)
    elif name.lower() in _EVERY:
        print(f"requeuest: {name!r} is one channel of that name, not every channel", file=sys.stderr)
