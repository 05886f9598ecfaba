"""What this machine lacks: descriptors, memory, threads or ports. None of it says anything about a receiver."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from requeuest_trio._model.ecosystem import ConnectError

__all__ = ["OutOfResources", "is_shortage", "lacks_descriptors", "lacks_ports"]

# Not EACCES and EPERM, which a local firewall gives, nor ENETUNREACH: they are about the way to this receiver, may last
# for ever, and are not cured by doing less.
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})
_MOST_CAUSES: Final = 50
_PIPES: Final = 4
"""Two descriptors each: more than one lookup or one certificate needs."""
_DISCARD: Final = 9


class OutOfResources(ConnectError):
    """This machine lacks what a connection needs, and nothing was sent."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error, or anything that it came from, says that this machine lacks something."""
    return any(
        isinstance(cause, MemoryError | OutOfResources)
        or (isinstance(cause, OSError) and not isinstance(cause, socket.gaierror) and cause.errno in _SHORTAGES)
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, groups included; not without end, since a cause may be set to anything."""
    found = [error]
    for _ in range(_MOST_CAUSES):
        if not found:
            return
        cause = found.pop()
        yield cause
        # Also what `from None` hides, as httpcore does.
        following = cause.__context__ if cause.__cause__ is None else cause.__cause__
        if following is not None:
            found.append(following)
        if isinstance(cause, BaseExceptionGroup):
            found.extend(cause.exceptions)


def lacks_descriptors() -> bool:
    """Whether there are too few descriptors now for what opens files without saying so: a lookup, a trust store.

    What fails of that calls the name unknown, or the certificate untrusted.
    """
    descriptors: list[int] = []
    try:
        for _ in range(_PIPES):
            descriptors.extend(os.pipe())
    except OSError:
        return True
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return False


def lacks_ports(family: socket.AddressFamily, where: tuple[str | int | bytes, ...]) -> bool:
    """Whether a connection failed of EADDRNOTAVAIL because all ports are used up.

    The other reason is that this machine has no address from which that one could be reached, which is no shortage.
    A datagram socket, whose connecting sends nothing, tells: it has ports of its own.
    """
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((where[0], _DISCARD, *where[2:]))
        return True
    return False
