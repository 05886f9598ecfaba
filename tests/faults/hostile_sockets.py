"""The hostile sockets: a process of its own that serves every hostile receiver, each at a port of its own.

It yields to all others. On a network it would be another machine, and a flood that it sends without ever waiting would
cost the delivering process no more than what that reads of it; here it would have one of its cores as well.
"""

import os
from contextlib import AsyncExitStack
from typing import Any

from tests.faults.program import hear, say
from tests.http.costly_cases import COSTLY
from tests.http.hostile import raw_server
from tests.http.hostile_cases import CASES


async def main(_: dict[str, Any]) -> None:
    os.nice(19)
    handlers = {name: (case.scheme, case.handle) for name, case in CASES.items()}
    handlers |= {name: ("http", handle) for name, handle in COSTLY.items()}
    async with AsyncExitStack() as stack:
        urls = {}
        for name, (scheme, handle) in handlers.items():
            server = await stack.enter_async_context(raw_server(handle))
            urls[name] = server.url.replace("http", scheme)
        say("serving", urls=urls)
        await hear()
