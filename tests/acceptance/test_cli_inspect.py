"""`requeuest jobs` and `requeuest show`: what is in the queue, without its secrets."""

import io
import json
import os
import pty
import re
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from requeuest_trio import Request, RetryPolicy, open_requeuest
from requeuest_trio.cli import jobs, show, summary
from requeuest_trio.cli.display import make_console, one_line
from requeuest_trio.cli.table import Column, print_table
from requeuest_trio.testing import Reply, open_receiver
from tests.acceptance.cli import COMMAND, environment, invoke, requeuest
from tests.servers import temporary_home

SECRETS = [("Authorization", "Bearer geheim"), ("X-Api-Key", "geheim"), ("X-Tag", "shown")]


async def delivered(
    dsn: str, *replies: Reply, request: Request | None = None, retry: RetryPolicy | None = None
) -> UUID:
    """A job that has ended, after these answers."""
    async with open_receiver() as receiver, open_requeuest(dsn, ["mail"]) as client:
        receiver.script(*replies)
        if request is None:
            request = Request.post(f"{receiver.url}/x?token=geheim&page=1", headers=SECRETS, json={"to": "Zoë"})
        else:
            request = Request(request.method, receiver.url, headers=request.headers, body=request.body)
        job_id = await client.spawn("mail", request, retry=retry or RetryPolicy(initial=0.01))
        await client.wait(job_id)
    return job_id


async def test_a_list_for_people(migrated_dsn: str) -> None:
    job_id = await delivered(migrated_dsn)
    ended = await requeuest("jobs", dsn=migrated_dsn)
    assert (ended.status, ended.err) == (0, "")
    heading, line = ended.out.splitlines()
    assert heading.split()[:5] == ["id", "channel", "state", "attempts", "status"]
    assert line.split()[:5] == [str(job_id), "mail", "succeeded", "1", "200"]
    assert line.endswith("/x?token=***&page=1")


async def test_a_list_for_programs(migrated_dsn: str) -> None:
    job_ids = [await delivered(migrated_dsn) for _ in range(2)]
    ended = await requeuest("jobs", "--json", "--channel", "mail", "--state", "succeeded", dsn=migrated_dsn)
    assert (ended.status, ended.err) == (0, "")
    documents = [json.loads(line) for line in ended.out.splitlines()]
    assert [document["id"] for document in documents] == [str(job_id) for job_id in job_ids]
    assert documents[0]["state"] == "succeeded"
    assert documents[0]["url"].endswith("?token=***&page=1")


async def test_a_list_has_its_limit(migrated_dsn: str) -> None:
    async with open_requeuest(migrated_dsn, ()) as client:
        await client.spawn_many("mail", [Request.get(f"http://localhost/{i}") for i in range(3)])
    limited = await requeuest("jobs", "--limit", "2", dsn=migrated_dsn)
    assert len(limited.out.splitlines()) == 3
    assert "these are the first 2; there are more: raise --limit, or 0 for all" in limited.err
    for limit in ("3", "0"):
        whole = await requeuest("jobs", "--limit", limit, "--json", dsn=migrated_dsn)
        assert (len(whole.out.splitlines()), whole.err) == (3, "")
    none = await requeuest("jobs", "--state", "dead", dsn=migrated_dsn)
    assert (none.status, none.out) == (0, "no jobs\n")


async def test_the_newest(migrated_dsn: str) -> None:
    async with open_requeuest(migrated_dsn, ()) as client:
        job_ids = await client.spawn_many("mail", [Request.get(f"http://localhost/{i}") for i in range(3)])
    last = await requeuest("jobs", "--newest", "--limit", "2", "--json", dsn=migrated_dsn)
    assert [json.loads(line)["id"] for line in last.out.splitlines()] == sorted(map(str, job_ids))[1:]
    assert "these are the last 2; there are more" in last.err
    every = await requeuest("jobs", "--newest", "--limit", "0", dsn=migrated_dsn)
    assert (len(every.out.splitlines()), every.err) == (4, "")


@pytest.mark.parametrize("arguments", [("jobs", "--limit", "0"), ("jobs", "--limit", "0", "--json")])
async def test_output_that_nobody_reads_to_the_end(arguments: tuple[str, ...], migrated_dsn: str) -> None:
    async with open_requeuest(migrated_dsn, ()) as client:
        await client.spawn_many("mail", [Request.get(f"http://localhost/{'x' * 500}{i}") for i in range(300)])
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        listing = await trio.lowlevel.open_process(
            [*COMMAND, *arguments], stdout=write, stderr=subprocess.PIPE, env=environment(migrated_dsn)
        )
        os.close(write)
        await trio.to_thread.run_sync(reader.readline)
    assert listing.stderr is not None
    assert b"".join([bytes(chunk) async for chunk in listing.stderr]) == b""
    assert await listing.wait() == 141


def on_a_terminal(width: int, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table on a terminal of so many columns."""
    out = io.StringIO()
    print_table(Console(file=out, force_terminal=True, width=width, markup=False, highlight=False), columns, rows)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


def in_a_pipe(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> list[str]:
    out = io.StringIO()
    print_table(make_console(out), columns, rows)
    return out.getvalue().splitlines()


A_JOB = (
    "0199c3d2-7b1e-7a4c-9d55-3f0e6b8a1c42", "a-channel-with-a-long-name", "succeeded", 12, 503, "2026-01-01 00:00:00Z",
    "POST https://api.example.com/" + "x" * 60, "connect: " + "refused " * 9 + "!",
)  # fmt: skip
AN_ATTEMPT = (3, "2026-01-01 00:00:00Z", "12 s", "response", 503, "2026-01-01 00:00:00Z", "e" * 90, "a" * 80)


def test_a_list_on_terminals() -> None:
    heading, line, note = on_a_terminal(80, jobs._COLUMNS, [A_JOB])
    assert heading.split() == ["id", "channel", "state", "attempts", "status", "request"]
    assert line.split() == ["3f0e6b8a1c42", "a-channel-with…", "succeeded", "12", "503", "POST", "https://api.ex…"]
    assert note == "left out for want of room: due or finished, last error"
    heading, line, *rest = on_a_terminal(120, jobs._COLUMNS, [A_JOB])
    assert " ".join(heading.split()) == "id channel state attempts status due or finished request last error"
    assert (line.split()[0], rest) == ("3f0e6b8a1c42", [])
    _, line = on_a_terminal(400, jobs._COLUMNS, [A_JOB])
    assert line == "  ".join(map(str, A_JOB)).replace("  12", "        12").replace("  503", "     503")


def test_the_attempts_on_terminals() -> None:
    heading, line, note = on_a_terminal(80, show._COLUMNS, [AN_ATTEMPT])
    assert heading.split() == ["attempt", "took", "reached", "status", "error", "answer"]
    assert note == "left out for want of room: started, next"
    assert len(line) == 80
    heading, *_ = on_a_terminal(120, show._COLUMNS, [AN_ATTEMPT])
    assert heading.split() == ["attempt", "started", "took", "reached", "status", "next", "error", "answer"]


def test_the_summary_on_a_terminal_of_80_columns() -> None:
    row = ("漢字" * 20, 100_000, 100_000, 0, 200_000, "9.99 s", "9.99 s", "1,234 s")
    lines = on_a_terminal(80, summary._COLUMNS, [row])
    assert lines[0].split() == " ".join(column.heading for column in summary._COLUMNS).split()
    assert lines[1].split()[-10:] == ["100000", "100000", "0", "200000", "9.99", "s", "9.99", "s", "1,234", "s"]
    assert max(map(cell_len, lines)) <= 80


@pytest.mark.parametrize("columns", [jobs._COLUMNS, show._COLUMNS, summary._COLUMNS])
@given(data=st.data(), width=st.integers(30, 300))
def test_a_row_is_one_line_at_every_width(columns: Sequence[Column], data: st.DataObject, width: int) -> None:
    """On a terminal it fits, and what may not be cut is whole or left out with its heading; in a pipe all is whole."""
    texts = st.text(st.characters(codec="utf-8") | st.sampled_from("漢\n ab"), max_size=60)
    short = [column.heading[:3] for column in columns]
    rows = [
        [data.draw(texts) if column.least else text for column, text in zip(columns, short, strict=True)]
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    heading, *lines = on_a_terminal(width, columns, rows)
    assert len(lines) - any("left out for want of room" in line for line in lines) == len(rows)
    assert max(map(cell_len, (heading, *lines[: len(rows)]))) <= width
    for column, text in zip(columns, short, strict=True):
        if column.least is None and column.heading in heading:
            assert all(text in line for line in lines[: len(rows)])
    whole = in_a_pipe(columns, rows)
    assert len(whole) == 1 + len(rows)
    for row, line in zip(rows, whole[1:], strict=True):
        assert all(one_line(str(value)) in line for value in row)


async def listed_on_a_terminal(width: int, dsn: str) -> list[str]:
    """What `requeuest jobs` shows on a real one."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, width))
    try:
        variables = environment(dsn) | {"TERM": "xterm"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            variables.pop(name, None)
        listing = await trio.run_process([*COMMAND, "jobs"], stdin=theirs, stdout=theirs, env=variables)
        assert listing.returncode == 0
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()


@pytest.mark.parametrize("width", [80, 120, 300])
async def test_an_id_as_it_is_listed_is_enough(width: int, migrated_dsn: str) -> None:
    async with open_requeuest(migrated_dsn, ()) as client:
        requests = [Request.get(f"http://localhost/{'x' * 90}{i}") for i in range(3)]
        job_ids = await client.spawn_many("a-channel-of-some-length", requests)
    lines = await listed_on_a_terminal(width, migrated_dsn)
    assert max(map(len, lines)) <= width
    found = set()
    for line in lines[1:4]:
        ended = await requeuest("show", line.split()[0], "--json", dsn=migrated_dsn)
        assert (ended.status, ended.err) == (0, "")
        found.add(UUID(json.loads(ended.out)["id"]))
    assert found == set(job_ids)


async def test_a_part_of_an_id(migrated_dsn: str) -> None:
    job_ids = [UUID(f"0189abcd-0000-7000-8000-00000000000{i}") for i in range(7)]
    alone = UUID("0189abce-1111-7000-8000-000000000000")
    async with open_requeuest(migrated_dsn, ()) as client:
        await client.spawn_many("mail", [Request.get("http://localhost/")] * 8, job_id=[*job_ids, alone])
    for part in ("0189ABCE-1", "0189abce", f" {str(alone)[:20]} ", "1111-7000-8000-000000000000"):
        found = await requeuest("show", part, dsn=migrated_dsn)
        assert (found.status, found.err) == (0, "")
        assert f"job:          {alone}\n" in found.out
    assert f"job:          {job_ids[6]}\n" in (await requeuest("show", "6", dsn=migrated_dsn)).out
    several = await requeuest("show", "0189abcd", dsn=migrated_dsn)
    listed = ", ".join(map(str, job_ids[:5]))
    assert (several.status, several.out) == (2, "")
    assert several.err == f"requeuest: several jobs have ids that begin or end with 0189abcd: {listed} and more\n"
    either = await requeuest("show", "00", dsn=migrated_dsn)
    assert either.err == f"requeuest: several jobs have ids that begin or end with 00: {job_ids[0]}, {alone}\n"
    none = await requeuest("show", "0189ff", dsn=migrated_dsn)
    assert (none.status, none.err) == (2, "requeuest: no job has an id that begins or ends with 0189ff\n")


@pytest.mark.parametrize("command", [("jobs",), ("show", "0189abcd")])
def test_looking_makes_no_embedded_server(command: tuple[str, ...], tmp_path: Path) -> None:
    place = tmp_path / "queue"
    for _ in range(2):
        ended = invoke(*command, "--dsn", f"embedded:{place}")
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith(f"requeuest: there is no queue in {place}; to make one: requeuest migrate --dsn")
        assert len(ended.err.splitlines()) == 1
        assert list(tmp_path.rglob("*")) in ([], [place])
        place.mkdir(exist_ok=True)


async def test_looking_makes_no_schema_in_an_embedded_server() -> None:
    with temporary_home() as place:
        dsn = f"embedded:{place}/queue"
        async with open_requeuest(dsn, ()):
            for _ in range(2):
                ended = await requeuest("jobs", "--schema", "other", dsn=dsn)
                assert (ended.status, ended.out) == (2, "")
                [line] = ended.err.splitlines()
                assert f"are missing; run: requeuest migrate --dsn {dsn} --schema other" in line
            assert (await requeuest("jobs", dsn=dsn)).out == "no jobs\n"


async def test_one_job_for_people(migrated_dsn: str) -> None:
    answer = Reply(201, headers=(("Set-Cookie", "session=geheim"),), body="Größe".encode())
    job_id = await delivered(migrated_dsn, Reply(503, body=b"busy \x1b[2J"), answer)
    ended = await requeuest("show", str(job_id), dsn=migrated_dsn)
    assert (ended.status, ended.err) == (0, "")
    for part in (
        f"job:          {job_id}\n", "state:        succeeded\n", "/x?token=***&page=1\n", "Authorization: ***\n",
        "X-Api-Key: ***\n", "X-Tag: shown\n", '{"to":"Zoë"}\n', "status 503 is not accepted", "201 Created\n",
        "Set-Cookie: ***\n", "Größe\n",
    ):  # fmt: skip
        assert part in ended.out
    assert "geheim" not in ended.out
    assert "\x1b" not in ended.out


async def test_one_job_for_programs(migrated_dsn: str) -> None:
    job_id = await delivered(migrated_dsn, Reply(503, body=b"busy"), Reply(200, body=b"\xff\x00"))
    ended = await requeuest("show", str(job_id), "--json", dsn=migrated_dsn)
    assert (ended.status, ended.err) == (0, "")
    assert "geheim" not in ended.out
    document = json.loads(ended.out)
    assert (document["id"], document["state"], document["attempts_made"]) == (str(job_id), "succeeded", 2)
    assert document["request"]["headers"][:3] == [["Authorization", "***"], ["X-Api-Key", "***"], ["X-Tag", "shown"]]
    assert document["request"]["body"] == '{"to":"Zoë"}'
    assert [attempt["status"] for attempt in document["attempts"]] == [503, 200]
    assert document["attempts"][0]["excerpt"] == {"body": "busy"}
    assert document["response"]["body_base64"] == "/wA="


async def test_bodies_are_shown_if_they_are_text_and_cut_if_they_are_long(migrated_dsn: str) -> None:
    answer = Reply(200, body=b"x" * 5_000)
    job_id = await delivered(migrated_dsn, answer, request=Request.post("http://localhost/", content=b"\x00\x01\x02"))
    ended = await requeuest("show", str(job_id), dsn=migrated_dsn)
    assert "3 bytes, no text\n" in ended.out
    assert "x" * 1_999 + "… (5,000 bytes in all)\n" in ended.out
    assert "x" * 2_000 not in ended.out


async def test_a_job_that_has_not_been_tried(migrated_dsn: str) -> None:
    async with open_requeuest(migrated_dsn, ()) as client:
        job_id = await client.spawn("mail", Request.get("http://localhost/"), ordering_key="k")
    ended = await requeuest("show", str(job_id), dsn=migrated_dsn)
    assert "state:        available\n" in ended.out
    assert "ordering key: k\n" in ended.out
    assert "none has ended\n" in ended.out


async def test_a_job_that_was_given_up(migrated_dsn: str) -> None:
    job_id = await delivered(migrated_dsn, Reply(410), retry=RetryPolicy(max_attempts=1))
    ended = await requeuest("jobs", "--state", "dead", dsn=migrated_dsn)
    assert ended.out.splitlines()[1].startswith(str(job_id))
    assert "status 410 is not accepted" in ended.out


async def test_no_such_job(migrated_dsn: str) -> None:
    job_id = uuid4()
    ended = await requeuest("show", str(job_id), dsn=migrated_dsn)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"requeuest: no job has the id {job_id}")
    assert len(ended.err.splitlines()) == 1


def test_an_id_that_is_none() -> None:
    for text in ("nothing", "0" * 33, "", "-"):
        ended = invoke("show", text, "--dsn", "postgresql:///x")
        assert (ended.status, ended.out) == (2, "")
        assert f"{text!r} is neither an id nor the beginning or ending of one" in ended.err
