"""`requeuest jobs` and `requeuest show`: what is in the queue, without its secrets."""

import io
import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio
from rich.cells import cell_len

from requeuest_trio import Request, RetryPolicy, open_requeuest
from requeuest_trio.cli import jobs, summary
from requeuest_trio.cli.display import make_console, print_table
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


def on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: Sequence[str], row: Sequence[object], *, below: Sequence[str] = ()
) -> list[str]:
    """The lines of a table on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    print_table(make_console(out), columns, [row], shortened="channel", below=below)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


def test_a_table_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, url = str(uuid4()), "https://api.example.com/" + "x" * 60
    row = (job_id, "a-channel-with-a-long-name", "succeeded", 12, 503, "2026-01-01 00:00:00Z", f"POST {url}", "why")
    heading, first, second = on_a_terminal(monkeypatch, jobs._COLUMNS, row, below=jobs._BELOW)
    assert heading.split() == ["id", "channel", "state", "attempts", "status"]
    assert [job_id, "succeeded", "12", "503"] == [word for word in first.split() if "…" not in word]
    assert second.startswith("  2026-01-01 00:00:00Z  POST https://api.example.com/xxx")
    assert second.endswith("…  why")
    assert max(map(len, (heading, first, second))) <= 80


def test_the_summary_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ("漢字" * 20, 100_000, 100_000, 0, 200_000, "9.99 s", "9.99 s", "1,234 s")
    lines = on_a_terminal(monkeypatch, summary._COLUMNS, row)
    assert lines[0].split() == " ".join(summary._COLUMNS).split()
    assert lines[1].split()[-10:] == ["100000", "100000", "0", "200000", "9.99", "s", "9.99", "s", "1,234", "s"]
    assert max(map(cell_len, lines)) <= 80


async def test_the_beginning_of_an_id(migrated_dsn: str) -> None:
    job_ids = [UUID(f"0189abcd-0000-7000-8000-00000000000{i}") for i in range(7)]
    alone = UUID("0189abce-1111-7000-8000-000000000000")
    async with open_requeuest(migrated_dsn, ()) as client:
        await client.spawn_many("mail", [Request.get("http://localhost/")] * 8, job_id=[*job_ids, alone])
    found = await requeuest("show", "0189ABCE-1", dsn=migrated_dsn)
    assert (found.status, found.err) == (0, "")
    assert f"job:          {alone}\n" in found.out
    several = await requeuest("show", "0189abcd", dsn=migrated_dsn)
    listed = ", ".join(map(str, job_ids[:5]))
    assert (several.status, several.out) == (2, "")
    assert several.err == f"requeuest: several jobs have ids that begin with 0189abcd: {listed} and more\n"
    none = await requeuest("show", "018900", dsn=migrated_dsn)
    assert (none.status, none.err) == (2, "requeuest: no job has an id that begins with 018900\n")


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
    ended = invoke("show", "7", "--dsn", "postgresql:///x")
    assert (ended.status, ended.out) == (2, "")
    assert "'7' is too short: give at least the first 6 digits" in ended.err
    for text in ("nothing", "0" * 33):
        ended = invoke("show", text, "--dsn", "postgresql:///x")
        assert f"'{text}' is neither an id nor the beginning of one" in ended.err
