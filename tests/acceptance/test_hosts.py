"""It lives where it says it does: in an anyio program, under anyio's pytest plugin, and in a web application."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from requeuest_trio import Client, Request, open_requeuest
from requeuest_trio.testing import open_receiver

PLUGIN_TEST = """
import os, pytest
from requeuest_trio import Request, open_requeuest
from requeuest_trio.testing import open_receiver

@pytest.fixture
def anyio_backend():
    return "trio"

@pytest.mark.anyio
async def test_delivery():
    async with open_receiver() as receiver, open_requeuest(os.environ["DSN"], ["a"]) as client:
        response = await client.spawn_returning("a", Request.post(receiver.url))
        assert response.status_code == 200
"""


def test_in_an_anyio_program(migrated_dsn: str) -> None:
    """Tasks of an anyio task group share a client, and cancelling the group ends it all."""
    statuses: list[int] = []

    async def ask(client: Client, url: str) -> None:
        response = await client.spawn_returning("a", Request.get(url))
        statuses.append(response.status_code)

    async def main() -> None:
        async with open_receiver() as receiver, open_requeuest(migrated_dsn, ["a"]) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask, client, receiver.url)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                tasks.cancel_scope.cancel()

    anyio.run(main, backend="trio")
    assert statuses == [200] * 5


def test_under_the_pytest_plugin_of_anyio(migrated_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PLUGIN_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:trio", "-p", "no:randomly", "-W", "error", "test_it.py"]
    environment = os.environ | {"DSN": migrated_dsn}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
async def test_in_starlette_on_hypercorns_trio_worker(migrated_dsn: str) -> None:
    """The queue is opened in the application's lifespan, and used by its requests."""
    async with open_receiver() as receiver:

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Client]]:
            async with open_requeuest(migrated_dsn, ["orders"]) as client:
                yield {"queue": client}

        async def order(request: WebRequest) -> JSONResponse:
            queue: Client = request.state.queue
            job_id = await queue.spawn("orders", Request.post(receiver.url, json={"order": 7}))
            return JSONResponse({"job": str(job_id)})

        application = Starlette(routes=[Route("/order", order, methods=["POST"])], lifespan=lifespan)
        config = HypercornConfig()
        config.bind = ["127.0.0.1:0"]
        config.accesslog = None
        config.errorlog = None
        finish = trio.Event()
        async with trio.open_nursery() as nursery:
            run = partial(serve, application, config, shutdown_trigger=finish.wait)  # type: ignore[arg-type]  # ASGI types differ
            [address] = await nursery.start(run)
            async with httpx2.AsyncClient() as browser:
                answer = await browser.post(f"{address}/order")
            [arrival] = await receiver.wait_for(1)
            assert arrival.header("idempotency-key") == answer.json()["job"]
            finish.set()
