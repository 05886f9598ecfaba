"""`requeuest demo`: it delivers, and it would notice if it did not."""

import io
import signal
from collections import Counter
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from requeuest_trio import JobState, Request
from requeuest_trio.cli.comparison import find_mismatches, target_of
from requeuest_trio.cli.demo import _judge, _seconds_for_an_attempt, example_requests
from requeuest_trio.cli.display import make_console
from requeuest_trio.cli.faulty_receiver import Fault, Seen
from requeuest_trio.cli.request_file import Entry
from requeuest_trio.cli.summary import percentile
from requeuest_trio.cli.tally import Outcome, Stored
from requeuest_trio.testing import Arrival
from tests.acceptance.cli import process, running
from tests.servers import temporary_home


async def test_from_beginning_to_end() -> None:
    ended = await process("demo", dsn="postgresql://user@127.0.0.1:1/not-for-the-demo")
    assert ended.status == 0, ended.err
    rows = {line.split()[0]: line.split() for line in ended.out.splitlines()}
    for channel in ("billing", "inventory", "mail", "media", "webhooks"):
        assert rows[channel][1] == rows[channel][2]
    assert rows["all"][1:4] == ["200", "200", "0"]
    assert int(rows["all"][4]) > 200
    assert rows["accepted"] == ["accepted", "200"]
    for fault in Fault:
        [line] = [line for line in ended.out.splitlines() if line.startswith(fault.value)]
        assert int(line.split()[-1]) > 0
    verdict, what_next = ended.out.splitlines()[-2:]
    assert verdict.startswith("All 200 requests were delivered once each")
    assert what_next.startswith("Next: requeuest send FILE.jsonl --dsn ")
    assert "docs/" not in what_next, "who has installed it with pip has none"
    assert "200 delivered" in ended.err
    assert "\x1b" not in ended.out + ended.err


def test_a_slow_machine_has_longer_for_an_attempt() -> None:
    assert [_seconds_for_an_attempt(start) for start in (0.5, 9.0)] == [2.0, 9.0]


def test_the_example_file_is_varied() -> None:
    entries = example_requests()
    assert len(entries) == 200
    assert {entry.request.method for entry in entries} == {"GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH"}
    assert len({entry.channel for entry in entries}) == 5
    keys = Counter(entry.ordering_key for entry in entries if entry.ordering_key)
    assert max(keys.values()) > 3
    assert any(b"\x00" in entry.request.body for entry in entries)


# --- the comparison --------------------------------------------------------------------------------------------------

REQUEST = Request.post("https://a.example/p%20q?x=1", headers=[("X-T", "1"), ("X-T", "2")], json={"ö": 1})


def a_job(request: Request = REQUEST, line: int = 1, key: str | None = None) -> Stored:
    return Stored(Entry(line, "c", key, request), uuid4())


def delivered(*stored: Stored) -> list[Outcome]:
    return [Outcome(one, JobState.SUCCEEDED, 1) for one in stored]


def arrival_of(stored: Stored, job_id: UUID | None = None) -> Arrival:
    request = stored.entry.request
    added = [("Idempotency-Key", str(job_id or stored.job_id)), ("User-Agent", "requeuest-trio"), ("Host", "b")]
    return Arrival(request.method, target_of(request.url), (added[2], *request.headers, *added[:2]), request.body, 0, 1)


def seen(stored: Stored, fault: Fault | None = None) -> Seen:
    return Seen(arrival_of(stored), fault)


def test_all_as_it_should_be() -> None:
    one, other = a_job(), a_job(Request.get("http://a"), line=2)
    arrivals = [seen(one, Fault.RESET), seen(other), seen(one)]
    assert find_mismatches([one, other], delivered(one, other), arrivals) == []


def test_a_key_of_the_request_s_own() -> None:
    stored = a_job(Request.post("http://a/", headers={"Idempotency-Key": "own"}))
    arrival = Arrival("POST", "/", (("Idempotency-Key", "own"), ("Content-Length", "0")), b"", 0, 1)
    assert find_mismatches([stored], delivered(stored), [Seen(arrival, None)]) == []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"method": "PUT"}, "the method was PUT, not POST"),
        ({"target": "/p q?x=1"}, "path and query were /p q?x=1, not /p%20q?x=1"),
        ({"target": "/p%20q"}, "path and query were /p%20q, not /p%20q?x=1"),
        ({"body": b'{"o":1}'}, "the body (7 bytes) was not that of the file (8 bytes)"),
        ({"body": b""}, "the body (0 bytes)"),
    ],
)
def test_what_arrived_otherwise(what: dict[str, object], said: str) -> None:
    stored = a_job()
    arrival = replace(arrival_of(stored), **what)  # type: ignore[arg-type]
    [mismatch] = find_mismatches([stored], delivered(stored), [Seen(arrival, None)])
    assert mismatch.startswith(f"line 1: {said}")


@pytest.mark.parametrize(
    "headers",
    [
        [("X-T", "1"), ("Content-Type", "application/json")],
        [("X-T", "2"), ("X-T", "1"), ("Content-Type", "application/json")],
        [("x-t", "1"), ("X-T", "2"), ("Content-Type", "application/json")],
        [("X-T", "1"), ("X-T", "2"), ("X-More", ""), ("Content-Type", "application/json")],
        [("X-T", "1"), ("X-T", "2"), ("Content-Type", "text/plain")],
    ],
)
def test_headers_that_differ(headers: list[tuple[str, str]]) -> None:
    stored = a_job()
    arrival = replace(arrival_of(stored), headers=(*headers, ("Idempotency-Key", str(stored.job_id))))
    [mismatch] = find_mismatches([stored], delivered(stored), [Seen(arrival, None)])
    assert "header" in mismatch


def test_a_failed_attempt_has_to_be_right_too() -> None:
    stored = a_job()
    wrong = Seen(replace(arrival_of(stored), body=b""), Fault.UNAVAILABLE)
    assert len(find_mismatches([stored], delivered(stored), [wrong, seen(stored)])) == 1


def test_not_accepted_or_twice() -> None:
    stored = a_job()
    for arrivals, times in [([], 0), ([seen(stored, Fault.STALL)], 0), ([seen(stored)] * 2, 2)]:
        mismatches = find_mismatches([stored], delivered(stored), arrivals)
        assert mismatches == [f"line 1: the receiver accepted it {times} times"]


def test_a_job_that_did_not_succeed() -> None:
    one, other = a_job(), a_job(line=2)
    finished = [Outcome(one, JobState.DEAD, 1)]
    mismatches = find_mismatches([one, other], finished, [seen(one), seen(other)])
    assert mismatches == [f"line {line}: the job did not succeed" for line in (1, 2)]


def test_what_nobody_sent() -> None:
    stored = a_job()
    stranger = Seen(arrival_of(stored, uuid4()), None)
    [mismatch] = find_mismatches([stored], delivered(stored), [seen(stored), stranger])
    assert mismatch == "POST /p%20q?x=1 came, but is not in the file"


def test_against_the_order_of_a_key() -> None:
    first, second, other = a_job(key="k"), a_job(line=2, key="k"), a_job(line=3, key="l")
    arrivals = [seen(other), seen(first, Fault.STALL), seen(second), seen(first)]
    mismatches = find_mismatches([first, second, other], delivered(first, second, other), arrivals)
    assert mismatches == ["line 1 came after line 2, against the order of its key"]


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert percentile([7.0], 0.95) == 7


def test_a_mismatch_fails_the_demo_and_is_shown() -> None:
    out, err = io.StringIO(), io.StringIO()
    assert _judge([], 200, make_console(out), make_console(err)) == 0
    assert _judge(["line 7: the body differed"], 200, make_console(out), make_console(err)) == 1
    assert err.getvalue() == "line 7: the body differed\n"
    assert out.getvalue().endswith("1 mismatches between the file and what the receiver saw.\n")


async def test_stopped_it_leaves_nothing() -> None:
    with temporary_home() as place:
        async with running("demo", dsn="", TMPDIR=str(place)) as demo:
            await demo.wait_to_say("of 200 delivered")
            assert list(place.iterdir()) != []
            demo.signal(signal.SIGINT)
            assert await demo.status() == 130
        assert list(place.iterdir()) == []
