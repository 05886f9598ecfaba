"""What commands do with a DSN besides opening a queue: look without creating anything, and name it to be pasted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from shlex import quote
from typing import Any, cast

import trio

from requeuest_trio import Client, Job, RequeuestError, SchemaMismatch, open_requeuest
from requeuest_trio.embedded import embedded_path, is_set_up, open_embedded
from requeuest_trio.masking import masked_dsn

__all__ = ["every_job", "open_existing", "option_of"]


@asynccontextmanager
async def open_existing(dsn: str, schema: str) -> AsyncIterator[Client]:
    """Open a queue only to read it: no data directory is made, no server set up, no table made or changed.

    Raises:
        RequeuestError: there is none.
    """
    async with AsyncExitStack() as stack:
        address = dsn
        if (path := embedded_path(dsn)) is not None:
            if not await trio.to_thread.run_sync(is_set_up, path):
                raise RequeuestError(f"there is no queue in {path}; to make one: requeuest migrate --dsn {quote(dsn)}")
            # With the address of the server, and not the DSN, its tables are left as they are.
            address = await stack.enter_async_context(open_embedded(path))
        try:
            client = await stack.enter_async_context(open_requeuest(address, (), schema=schema))
        except SchemaMismatch as error:
            # Its remedy has to work once this server has stopped.
            raise SchemaMismatch(str(error).replace(quote(address), quote(dsn))) from error
        yield client


def every_job(client: Client, **wanted: Any) -> aclosing[AsyncGenerator[Job, None]]:
    """`client.jobs`, for an `async with`: so it ends where the block does, also if not all are read."""
    return aclosing(cast("AsyncGenerator[Job, None]", client.jobs(**wanted)))


def option_of(dsn: str) -> tuple[str, str]:
    """The option of a command to paste, with a space before it, and where what it must not show has to be put."""
    shown = masked_dsn(dsn) if embedded_path(dsn) is None else dsn
    if shown is None:
        return "", "with the connection string in REQUEUEST_DSN"
    return f" --dsn {quote(shown)}", "" if shown == dsn else "with its password in PGPASSWORD or in a password file"
