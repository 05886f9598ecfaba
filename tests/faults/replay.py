"""The steps of `protocol.py` on the real store: what the model says of the database has to be true of PostgreSQL."""

from __future__ import annotations

from uuid import UUID

from requeuest_trio._store.claimed import Claimed
from tests.engine.store_harness import StoreHarness, delivered, gave_up, new_job, to_be_retried
from tests.faults.protocol import Identity, Label, State, Write
from tests.postgres.harness import Conn

__all__ = ["Replay"]

LEASE = 3_600.0
CHANGE_LEASE = "UPDATE requeuest.worker SET seen_at = now() - lease * %s WHERE id = %s"
JOBS = "SELECT id, state::text, attempts, worker FROM requeuest.job"
LEASES = "SELECT id, seen_at + lease >= now() FROM requeuest.worker"
OUTCOMES = {"succeeded": delivered, "dead": gave_up, "retry": to_be_retried}


class Replay:
    """One path of the model, step by step."""

    def __init__(self, harness: StoreHarness, connection: Conn) -> None:
        self._harness = harness
        self._connection = connection
        self._workers: dict[Identity, UUID] = {}
        self._jobs = [new_job(key="k"), new_job(key="k")]
        self._claimed: dict[tuple[int, int], Claimed] = {}

    async def begin(self, state: State) -> None:
        """An empty queue, and the processes registered."""
        for table in ("job", "attempt", "worker"):
            await self._harness.rows(self._connection, f"DELETE FROM requeuest.{table}")
        for identity, _ in state.leases:
            await self._register(identity)

    async def step(self, before: State, label: Label, after: State) -> None:
        """Do what the model did. Steps within a process leave the database alone."""
        match label:
            case ("spawn", int(number)):
                await self._harness.spawn(self._connection, self._jobs[number])
            case ("claim", int(process), int(number)):
                await self._claim(before.processes[process].identity, number, after)
            case ("record" | "late" | "give back" | "give back unknown", *write):
                await self._write(Write(*write))
            case ("rescue", _):
                assert await self._harness.rescue(self._connection) == 1
            case ("expire", *identity):
                await self._harness.rows(self._connection, CHANGE_LEASE, 1.5, self._worker_of(identity))
            case ("forget", *identity):
                await self._harness.rows(self._connection, CHANGE_LEASE, 3, self._worker_of(identity))
                await self._harness.on(self._connection).forget(await self._harness.lost(self._connection, leases=2))
            case ("beat", int(process)):
                was_registered = before.processes[process].identity in {identity for identity, _ in before.leases}
                worker = self._workers[before.processes[process].identity]
                assert (await self._harness.on(self._connection).heartbeat(worker) is not None) == was_registered
                if not was_registered:
                    await self._register(after.processes[process].identity)
            case ("crash" | "leave" as how, int(process)):
                if how == "leave":
                    worker = self._workers[before.processes[process].identity]
                    await self._harness.on(self._connection).release(worker)
                    await self._harness.on(self._connection).deregister(worker)
                await self._register(after.processes[process].identity)

    async def differences(self, state: State) -> list[object]:
        """Where PostgreSQL has something else than the model: what it has, and what it should have."""
        jobs = {row[0]: row[1:] for row in await self._harness.rows(self._connection, JOBS)}
        stored: list[object] = [jobs.get(new.id, ("absent", 0, None)) for new in self._jobs]
        stored.append(dict(await self._harness.rows(self._connection, LEASES)))
        wanted: list[object] = [
            (job.state, job.attempts, None if job.owner is None else self._workers[job.owner]) for job in state.jobs
        ]
        wanted.append({self._workers[identity]: is_live for identity, is_live in state.leases})
        return [pair for pair in zip(stored, wanted, strict=True) if pair[0] != pair[1]]

    async def _register(self, identity: Identity) -> None:
        self._workers[identity] = await self._harness.worker(self._connection, lease=LEASE)

    async def _claim(self, identity: Identity, number: int, after: State) -> None:
        [claimed] = await self._harness.claim(self._connection, self._workers[identity], 1)
        assert claimed.id == self._jobs[number].id
        self._claimed[number, after.jobs[number].claim] = claimed

    async def _write(self, write: Write) -> None:
        claimed = self._claimed[write.job, write.claim]
        if write.what == "release":
            await self._harness.on(self._connection).release_jobs(self._workers[write.owner], [claimed])
        else:
            await self._harness.record(self._connection, [OUTCOMES[write.what](claimed)])

    def _worker_of(self, identity: list[int]) -> UUID:
        process, times = identity
        return self._workers[int(process), int(times)]
