"""`open_requeuest`: checks what it is given, and what is open lives as long as its block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import trio

from requeuest_trio import embedded
from requeuest_trio._client import Client
from requeuest_trio._config import Config, check_dsn
from requeuest_trio._engine.runner import FINISH_SECONDS
from requeuest_trio._http.sender import open_sender
from requeuest_trio._model import checks
from requeuest_trio._model.channel import ALL, All, Channel, channels_of
from requeuest_trio._model.dsn import HiddenText
from requeuest_trio._model.ecosystem import AsyncBaseTransport, AsyncClient, ForeignClient
from requeuest_trio._model.errors import InvalidRequest, RequeuestError
from requeuest_trio._model.exact import exact_text
from requeuest_trio._model.groups import Kept, raise_bare
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._postgres import Dsn, Route
from requeuest_trio._real_time import move_on_after
from requeuest_trio._store.migrate import apply_migrations
from requeuest_trio._store.notifications import Notifications
from requeuest_trio._store.opening import Opening
from requeuest_trio._store.queries import Queries, checked_schema
from requeuest_trio._wiring import Databases, Options, Wired, wire

__all__ = ["migrate", "open_requeuest"]

_CLOSE_SECONDS = 5.0
_LONGEST_SECONDS = 3_600.0


async def migrate(dsn: Dsn, *, schema: str = "requeuest", target: int | None = None) -> list[str]:
    """Bring the tables in a database to a version.

    Safe to run from several processes at once, and again: they take turns, and what is done is left alone. Everything
    is in a PostgreSQL schema of its own, so that it lives beside an application's tables.

    Args:
        dsn: a libpq connection string or URL, or `embedded:` with or without a path; or a callable, as for
            `open_requeuest`.
        schema: the PostgreSQL schema; 1 to 40 of a-z, 0-9 and _. It is made if there is none.
        target: the version to go to; None is the newest, 0 takes the queue away with everything in it.

    Returns:
        What was applied, in order, such as `["0001_queue.up"]`.

    Raises:
        DatabaseUnavailable: PostgreSQL can't be reached.
        SchemaMismatch: the tables were made by other migrations, or by a newer version of this library.
        RequeuestError: the role lacks a right, or PostgreSQL refuses a step, such as for a view of yours on the tables
            or an event trigger; the text says what. That step is undone, those before it stand.
        InvalidRequest: naming the argument.

    Guarantee: the tables are of version `target` when this returns.

    Cancellation: each step is applied whole or not at all.

    Example::

        await migrate("postgresql:///app")
    """
    _require_trio()
    dsn = _hidden(dsn)
    async with _server(dsn) as address:
        return await apply_migrations(Route(address), Emitter(), schema=schema, target=target)


@asynccontextmanager
async def open_requeuest(
    dsn: str | Callable[[], str | Awaitable[str]],
    channels: Iterable[str | Channel] | All = ALL,
    *,
    http: AsyncBaseTransport | AsyncClient | ForeignClient | None = None,
    migrate: bool = False,
    schema: str = "requeuest",
    concurrency: int = 32,
    lease: float | timedelta = 30.0,
    grace: float | timedelta = 10.0,
    poll_interval: float | timedelta = 5.0,
    config: Config | None = None,
) -> AsyncIterator[Client]:
    """Open a queue, and deliver what is in it for as long as the block lasts.

    Leaving the block normally claims nothing more, lets running attempts end for up to `grace` seconds, and releases
    the claims of the rest. An exception, or cancellation, releases all unfinished jobs at once; their attempt is not
    counted, though the receiver may have got it. An exception of yours comes out as it is, not in a group.

    Args:
        dsn: a libpq connection string or URL; or `embedded:` for a PostgreSQL of the library's own in the user's data
            directory, `embedded:/path` for one there (both need `requeuest-trio[embedded]`). A pooler may be in
            between: one that shares sessions between transactions is found out, and `Config.listen_dsn` leads past it.
            Or a callable, or async function, that returns a connection string or URL. It is asked whenever a connection
            is made, within `Config.connect_timeout`, so that a password may change; if it raises, that counts as an
            outage. Several hosts are tried in turn, each for its share of that time, one that has failed last.
        channels: what this process delivers: names, or `Channel` objects where there are settings. `ALL` is every
            channel, also those that appear later; an empty collection only enqueues.
        http: what to send with: an `httpx2.AsyncBaseTransport`, or an `AsyncClient` of httpx2 or httpx, which you
            close. Its timeouts and redirects are the library's all the same, it sends the cookies that you have set but
            keeps none of an answer, and asks for no coding beyond gzip and deflate. None: a transport of its own.
        migrate: whether to bring the tables up to date first. Always done for `embedded:`.
        schema: the PostgreSQL schema of the queue.
        concurrency: attempts at once, per channel, in this process; 1 to 10,000, and at most `Config.max_running`.
        lease: seconds or a `timedelta`, 1 to 3,600 s. If this process dies, others take its jobs over so much later.
        grace: the same, 0 to 3,600 s.
        poll_interval: the same, 0.05 to 3,600 s: how late a job may be found whose notification was lost.
        config: everything else; see `Config`.

    Raises:
        InvalidRequest: naming the argument and its limits.
        DatabaseUnavailable: PostgreSQL can't be reached at the start. Later outages are survived.
        SchemaMismatch: the tables are missing, older or newer; the text has the command to run.
        RequeuestError: this is not Trio; or the database role lacks a right, or is not shown all rows: the text names
            which, and the command that helps; or an `embedded:` server can't be had.

    Guarantee: when the block has begun, the process delivers. When it has ended, no task, connection or lease of it is
    left.

    Cancellation: unfinished jobs are released, as said above; it takes up to 5 seconds to record what is known.

    Example::

        async with open_requeuest("postgresql:///app", ["billing"]) as client:
            await client.spawn("billing", Request.post("https://api.example.com/charges", json={"order": 7}))
    """
    _require_trio()
    dsn = _hidden(dsn)
    names, settings = channels_of(channels)
    schema = checked_schema(schema)
    concurrency = checks.whole_number("concurrency", concurrency, 1, 10_000)
    lease_seconds = checks.seconds("lease", lease, 1.0, _LONGEST_SECONDS)
    grace_seconds = checks.seconds("grace", grace, 0.0, _LONGEST_SECONDS)
    poll_seconds = checks.seconds("poll_interval", poll_interval, 0.05, _LONGEST_SECONDS)
    config = _checked_config(config, concurrency)
    options = Options(names, settings, concurrency, lease_seconds, poll_seconds, config)
    emitter = Emitter()

    async with _resources() as stack:
        stack.callback(emitter.close)
        sender = await stack.enter_async_context(open_sender(http, config))
        address = await stack.enter_async_context(_server(dsn))
        route = Route(address)
        if migrate or address is not dsn:
            await apply_migrations(route, emitter, schema=schema)
        queries = Queries(schema)
        notifications = Notifications(schema, emitter, enabled=config.notifications)
        opening = Opening(address, route, queries, notifications, config, emitter)
        sessions = await opening.prepare(options.channels, options.settings)
        listen_at = opening.listening_route(options.poll_interval, sessions=sessions)
        databases = Databases(stack, route, queries, notifications, config, has_sessions=sessions)
        wired = await wire(options, databases, notifications, sender, listen_at, emitter)
        async with _running(wired, grace_seconds):
            yield wired.client


@asynccontextmanager
async def _resources() -> AsyncIterator[AsyncExitStack]:
    """A stack that is closed in a cancelled scope too, and without `Cancelled` taking the place of the user's error."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        with move_on_after(_CLOSE_SECONDS, shield=True, holds=False):
            await stack.aclose()


@asynccontextmanager
async def _running(wired: Wired, grace: float) -> AsyncIterator[None]:
    """Run everything for as long as the block lasts, and end it in order."""
    client, runner, services = wired
    errors = Kept()
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            for service in services:
                nursery.start_soon(service)
            if runner is not None:
                await runner.start(nursery)
            try:
                # The nursery would make another group of the user's, and give every error another context.
                with errors:
                    yield
                    if runner is not None:
                        await runner.drain(grace)
            finally:
                client.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        errors.extend(group.exceptions)
    finally:
        if runner is not None:
            with move_on_after(FINISH_SECONDS, shield=True, holds=False):
                await runner.finish()  # noqa: ASYNC102 - in a shield of its own
    if errors:
        raise_bare(BaseExceptionGroup("the block has ended with several errors", errors))


def _hidden(dsn: Dsn) -> Dsn:
    """The same, but not to be seen where the locals of a traceback are shown."""
    if not isinstance(dsn, str):
        return dsn
    return exact_text(dsn) if dsn.startswith(embedded.SCHEME) else HiddenText(exact_text(dsn))


@asynccontextmanager
async def _server(dsn: Dsn) -> AsyncIterator[Dsn]:
    """The address of a server: that of the DSN, or that of an embedded one, which runs as long as the block."""
    if isinstance(dsn, str) and (path := embedded.embedded_path(dsn)) is not None:
        async with embedded.open_embedded(path) as address:
            yield address
        return
    if not callable(dsn):
        check_dsn("dsn", dsn, 'must be a PostgreSQL URL, a connection string of libpq, or "embedded:"')
    yield dsn


def _require_trio() -> None:
    if not trio.lowlevel.in_trio_run():
        raise RequeuestError(
            "requeuest-trio runs on Trio only, not on an asyncio loop: start with trio.run(main) or anyio.run(main, "
            "backend='trio'), and a web application with hypercorn --worker-class trio (uvicorn has no Trio); what has "
            "to stay on asyncio can add jobs by SQL"
        )


def _checked_config(config: Config | None, concurrency: int) -> Config:
    config = Config() if config is None else config
    if not isinstance(config, Config):
        raise InvalidRequest("config", f"must be a Config, not {type(config).__name__}")
    if concurrency > config.max_running:
        raise InvalidRequest(
            "concurrency", f"must be at most Config.max_running, which is {config.max_running:,}, not {concurrency:,}"
        )
    return config
