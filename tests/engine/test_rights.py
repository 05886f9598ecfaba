"""
A role that may not do everything, or does not see everything. Invariant: opening says what it lacks, and what helps.

What could go wrong: jobs that are hidden are waited for in silence; tables that may not be read count as missing; a
bare error of psycopg; and who only enqueues needs rights that only delivering takes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from requeuest_trio import Channel, Request, RequeuestError, open_requeuest
from requeuest_trio.testing import Receiver
from tests.engine.probe import QueueProbe
from tests.poolers import direct

WORKER = """
    grant usage on schema requeuest to {role};
    grant select on requeuest.migration, requeuest.channel to {role};
    grant select, insert, update, delete on requeuest.job, requeuest.attempt, requeuest.worker to {role};
    grant usage on sequence requeuest.job_position to {role}
"""
LACKING = {
    "usage on schema": ("usage", "schema requeuest", "USAGE on schema"),
    "insert on worker": ("insert", "table requeuest.worker", "INSERT on table"),
    "update on worker": ("update", "table requeuest.worker", "UPDATE on table"),
    "update on job": ("update", "table requeuest.job", "UPDATE on table"),
    "select on job": ("select", "table requeuest.job", "SELECT on table"),
    "insert on attempt": ("insert", "table requeuest.attempt", "INSERT on table"),
    "select on migration": ("select", "table requeuest.migration", "SELECT on table"),
    "select on channel": ("select", "table requeuest.channel", "SELECT on table"),
}


class Role:
    """A role without rights, in the database of a test."""

    def __init__(self, probe: QueueProbe, name: str) -> None:
        self._eye = probe
        self.name = name
        self.dsn = make_conninfo(direct(probe.dsn), user=name)

    async def run(self, statements: str) -> None:
        """As the owner, with the role's name filled in."""
        text = sql.SQL(statements).format(role=sql.Identifier(self.name))
        await self._eye.connection.execute(text)


@pytest.fixture
async def role(probe: QueueProbe) -> AsyncIterator[Role]:
    made = Role(probe, f"role of {await probe.value('select current_database()')}")
    await made.run("create role {role} login")
    yield made
    await made.run("drop owned by {role}; drop role {role}")


async def test_with_all_rights_a_role_delivers(role: Role, receiver: Receiver) -> None:
    await role.run(WORKER)
    async with open_requeuest(role.dsn) as client:
        await client.spawn_returning("a", Request.get(receiver.url), ordering_key="k")


@pytest.mark.parametrize(("right", "thing", "text"), LACKING.values(), ids=LACKING)
async def test_what_is_lacking_is_named_and_the_remedy_works(
    role: Role, receiver: Receiver, right: str, thing: str, text: str
) -> None:
    await role.run(WORKER)
    await role.run(f"revoke {right} on {thing} from {{role}}")
    with pytest.raises(RequeuestError, match=text) as caught:
        async with open_requeuest(role.dsn):
            pass
    assert role.name in str(caught.value)
    _, _, remedy = str(caught.value).partition("Remedy: ")
    await role.run(remedy.replace("{", "{{").replace("}", "}}"))
    async with open_requeuest(role.dsn) as client:
        await client.spawn_returning("a", Request.get(receiver.url))


@pytest.mark.parametrize("right", ["insert", "update"])
async def test_to_set_a_channel_takes_rights_on_it(role: Role, right: str) -> None:
    await role.run(WORKER)
    await role.run("grant insert, update on requeuest.channel to {role}")
    await role.run(f"revoke {right} on requeuest.channel from {{role}}")
    with pytest.raises(RequeuestError, match=f"lacks {right.upper()} on table") as caught:
        async with open_requeuest(role.dsn, [Channel("ledger", ordered=True)]):
            pass
    _, _, remedy = str(caught.value).partition("Remedy: ")
    await role.run(remedy.replace("{", "{{").replace("}", "}}"))
    async with open_requeuest(role.dsn, [Channel("ledger", ordered=True)]):
        pass


async def test_a_function_that_may_not_be_called_is_named(role: Role) -> None:
    await role.run(WORKER)
    await role.run("revoke execute on function requeuest.announce from public")
    with pytest.raises(RequeuestError, match=r"lacks EXECUTE on function requeuest\.announce"):
        async with open_requeuest(role.dsn):
            pass


@pytest.mark.parametrize("table", ["job", "worker", "attempt", "channel", "migration"])
@pytest.mark.parametrize("channels", [["a"], []])
async def test_rows_that_are_hidden_are_named(role: Role, table: str, channels: list[str]) -> None:
    await role.run(WORKER)
    await role.run(f"alter table requeuest.{table} enable row level security")
    with pytest.raises(RequeuestError, match=f'row-level security hides rows of "requeuest".{table} from the role'):
        async with open_requeuest(role.dsn, channels):
            pass
    await role.run("alter role {role} bypassrls")
    async with open_requeuest(role.dsn, channels):
        pass


async def test_who_only_looks_needs_only_to_look(role: Role) -> None:
    await role.run(
        "grant usage on schema requeuest to {role}; grant select on all tables in schema requeuest to {role}"
    )
    async with open_requeuest(role.dsn, ()) as client:
        assert [job async for job in client.jobs()] == []
        assert (await client.stats()).channels == {}
        with pytest.raises(RequeuestError, match=r"permission denied for table job: the role lacks a right"):
            await client.spawn("a", Request.get("http://localhost/"))


async def test_who_only_enqueues_needs_only_that(role: Role, probe: QueueProbe) -> None:
    await role.run("grant usage on schema requeuest to {role}; grant select on requeuest.migration to {role}")
    await role.run("grant select on requeuest.channel to {role}; grant select, insert on requeuest.job to {role}")
    async with open_requeuest(role.dsn, ()) as client:
        await client.spawn("a", Request.get("http://localhost/"))
        await client.spawn_many("a", [Request.get("http://localhost/")] * 3)
    assert await probe.states() == {"available": 4}
