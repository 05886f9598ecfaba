"""`requeuest jobs` and `requeuest show`: what is in the queue, without its secrets."""

import json
from uuid import UUID, uuid4

from requeuest_trio import Request, RetryPolicy, open_requeuest
from requeuest_trio.testing import Reply, open_receiver
from tests.acceptance.cli import invoke, requeuest

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
    assert "'7' is not a valid UUID" in ended.err
