"""
A notification is a hint: it may be lost, and the polls find what it was about.

What could go wrong, and is tried here: notifications that are switched off, or not heard any more without an error; a
listening connection that dies, and jobs that come meanwhile; announcements that other programs make.
"""

from typing import Any

import pytest
import trio

from requeuest_trio import ALL, Config, Request, open_requeuest
from requeuest_trio._engine import listener
from requeuest_trio._store.store import Store
from requeuest_trio.testing import Receiver
from tests.engine.probe import Log, QueueProbe, nothing_left, runner_of
from tests.engine.roles import another_role
from tests.machine import OwnTime
from tests.postgres.harness import connect, terminate
from tests.waiting import PATIENCE


async def _insert_unannounced(probe: QueueProbe, url: str, channel: str = "a") -> None:
    await probe.connection.execute(
        "insert into requeuest.job (channel, method, url) values (%s, 'GET', %s)", [channel, url]
    )


async def _listening_pid(probe: QueueProbe) -> int:
    await probe.until_true(
        "select true from pg_stat_activity where datname = current_database() and query ilike 'listen %%'"
    )
    [pid] = [
        pid for pid, query in (await probe.sessions()).items() if query.lower().startswith(("listen ", "-- listen"))
    ]
    return pid


async def test_notifications_switched_off(probe: QueueProbe, receiver: Receiver) -> None:
    config = Config(notifications=False)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=0.2, config=config) as client:
        assert not [query for query in (await probe.sessions()).values() if "listen" in query.lower()]
        with trio.fail_after(5):
            for _ in range(3):
                await client.spawn_returning("a", Request.get(receiver.url))


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_the_listening_connection_dies(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=600) as client:
        await client.spawn_returning("a", Request.get(receiver.url))
        pid = await _listening_pid(probe)
        await _insert_unannounced(probe, receiver.url)
        await terminate(probe.connection, pid)
        await log.wait_for("listener_lost")
        assert await log.wait_for("listener_back") == [{"failures": 1}]
        await probe.until_states(succeeded=2)  # nobody announced it: everything is looked at after a silence
        with trio.fail_after(3):
            await client.spawn_returning("a", Request.get(receiver.url))


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_a_registration_that_is_lost_without_an_error(
    probe: QueueProbe, receiver: Receiver, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen, deaf = Store.listen, 0

    async def soon_deaf(self: Store, *args: Any) -> None:
        nonlocal deaf
        await listen(self, *args)
        if not deaf:
            deaf += 1
            await self.connections.run(lambda connection: connection.execute("unlisten *"))

    monkeypatch.setattr(Store, "listen", soon_deaf)
    monkeypatch.setattr(listener, "_CHECK_SECONDS", 0.3)
    async with nothing_left(probe), open_requeuest(probe.dsn, poll_interval=600) as client:
        with trio.fail_after(10):
            await client.spawn_returning("a", Request.get(receiver.url))
        await log.wait_for("listener_back")
    assert deaf == 1


@pytest.mark.parametrize(
    "payload",
    ["", "null", "[]", "{", '{"a": "soon"}', '{"a": null}', "7", '{"b": 0}', '{"a": NaN}', '{"a": -Infinity}'],
)
@pytest.mark.parametrize("topic", ["due", "done"])
async def test_announcements_of_other_programs(probe: QueueProbe, receiver: Receiver, topic: str, payload: str) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, ["a"], poll_interval=600) as client:
        await client.spawn_returning("a", Request.get(receiver.url))
        await probe.connection.execute("select pg_notify(%s, %s)", [f"requeuest:{topic}", payload])
        with trio.fail_after(3):
            await client.spawn_returning("a", Request.get(receiver.url))


async def test_a_hint_for_a_channel_that_does_not_exist(probe: QueueProbe, receiver: Receiver) -> None:
    async with nothing_left(probe), open_requeuest(probe.dsn, ALL, poll_interval=600) as client:
        await client.spawn_returning("a", Request.get(receiver.url))
        await probe.connection.execute("select pg_notify('requeuest:due', '{\"nowhere\": 0}')")
        await client.spawn_returning("a", Request.get(receiver.url))


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_a_client_that_only_enqueues_hears_of_results(probe: QueueProbe, receiver: Receiver) -> None:
    async with (
        nothing_left(probe),
        open_requeuest(probe.dsn, ["a"]),
        open_requeuest(probe.dsn, (), poll_interval=600) as client,
    ):
        with trio.fail_after(5):
            for _ in range(3):
                assert (await client.spawn_returning("a", Request.get(receiver.url))).status_code == 200


HOSTILE = [
    "[" * 7_900,
    '{"a": ' + "9" * 401 + "}",
    '{"a": ' + "9" * 5_000 + "}",
    '{"\\ud800": 0}',
    '{"a": 0, "a": [NaN, -Infinity]}',
    '{"a": {"a": {"a": 0}}}',
    ",,,",
    "",
]
FLOOD = """
DO $$
BEGIN
    FOR i IN 1 .. 150 LOOP
        PERFORM pg_notify('requeuest:' || topic, CASE topic
            WHEN 'due' THEN (SELECT json_object_agg('x' || i || '.' || n, 0)::text FROM generate_series(1, 480) AS n)
            ELSE (SELECT string_agg(gen_random_uuid()::text, ',') FROM generate_series(1, 200)) END)
        FROM unnest(ARRAY['due', 'done']) AS topic;
        COMMIT;
        PERFORM pg_sleep(0.005);
    END LOOP;
END $$
"""


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_whoever_may_connect_can_announce_what_he_likes(probe: QueueProbe, receiver: Receiver, log: Log) -> None:
    with another_role(probe.dsn) as theirs:
        stranger = await connect(theirs)
        async with stranger, nothing_left(probe), open_requeuest(probe.dsn, poll_interval=600) as client:
            for payload in HOSTILE:
                for topic in ("due", "done", "x"):
                    await stranger.execute("select pg_notify(%s, %s)", [f"requeuest:{topic}", payload])
                with trio.fail_after(5):
                    await client.spawn_returning("a", Request.get(receiver.url))
    assert not log.fields("listener_lost")


@pytest.mark.needs_sessions("news is to be heard here, not to be found by polling")
async def test_invented_channels_and_jobs_keep_nothing_from_being_sent(probe: QueueProbe, receiver: Receiver) -> None:
    """And what is heard leaves nothing behind."""
    stop = trio.Event()
    with another_role(probe.dsn) as theirs:
        async with open_requeuest(probe.dsn, (), poll_interval=600) as producer, trio.open_nursery() as nursery:

            async def flood() -> None:
                stranger = await connect(theirs)
                async with stranger:
                    while not stop.is_set():
                        await stranger.execute(FLOOD.encode())

            async with open_requeuest(probe.dsn, poll_interval=600) as deliverer:
                nursery.start_soon(flood)
                nursery.start_soon(flood)
                for number in range(10):
                    own = OwnTime()
                    with trio.fail_after(PATIENCE):
                        await producer.spawn_returning(f"healthy {number}", Request.get(receiver.url))
                    assert own.alone < 5
                kept = runner_of(deliverer).dispatcher.statistics().readiness
                assert all(channel.startswith("healthy") for channel in (*kept.ready, *kept.scheduled, *kept.known))
                stop.set()
