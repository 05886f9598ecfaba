"""Whose a client is: it belongs to the one Trio run, in the one process, in which it was opened."""

from __future__ import annotations

import os

import trio

from requeuest_trio._model.errors import RequeuestError

__all__ = ["Owner"]


class Owner:
    """The Trio run and the process that make this object.

    A task of another run that waited on the owner's events or locks would end the owner's run, not its own; and what a
    forked child writes to the connections that it shares with its parent, the parent would pay for.
    """

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._pid = os.getpid()

    def require(self) -> None:
        """Raise `RequeuestError` unless the code that asks runs in the owner. No checkpoint, nothing is touched."""
        try:
            # A forked child has the token of its parent's run too.
            if trio.lowlevel.current_trio_token() is self._token and os.getpid() == self._pid:
                return
        except RuntimeError:
            pass  # no Trio here
        raise RequeuestError(
            "this client belongs to the Trio run and the process that opened it. From another thread or event loop, "
            "call trio.from_thread.run(client.spawn, ..., trio_token=token), where token is what "
            "trio.lowlevel.current_trio_token() gives in the client's own run; in another process, forked ones "
            "included, open a client of its own"
        )
