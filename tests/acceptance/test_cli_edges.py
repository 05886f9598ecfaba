"""The command where something around it is closed, full, gone or absurd: real processes, and what they end with."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trio

from requeuest_trio import JobState, Request, open_requeuest
from requeuest_trio.testing import Reply, open_receiver
from tests.acceptance.cli import COMMAND, PATIENCE, environment, invoke, open_gate, process, running

FULL = "requeuest: standard output can't be written: No space left on device\n"
CLOSED = "requeuest: standard output can't be written: Bad file descriptor\n"
TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT


def shell(redirection: str, *arguments: str, dsn: str, **variables: str) -> tuple[int, str, str]:
    """Run the command as a shell does, with some streams led elsewhere: its status, output and remarks."""
    ended = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment(dsn) | variables,
        timeout=PATIENCE,
        check=False,
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


@pytest.fixture
def one_job(migrated_dsn: str) -> str:
    """The DSN of a queue with a job in a channel that ASCII has no name for."""
    with psycopg.connect(migrated_dsn) as connection:
        connection.execute(
            "INSERT INTO requeuest.job (channel, method, url) VALUES ('münze', 'GET', 'http://localhost/')"
        )
    return migrated_dsn


@pytest.mark.parametrize(
    ("redirection", "arguments", "status", "said"),
    [
        (">/dev/full", ["jobs"], 74, FULL),
        (">/dev/full", ["jobs", "--json"], 74, FULL),
        (">/dev/full", ["--help"], 74, FULL),
        (">&-", ["jobs"], 74, CLOSED),
        (">&-", ["migrate"], 74, CLOSED),
        (">&-", ["--help"], 74, CLOSED),
        (">/dev/full 2>/dev/full", ["jobs"], 74, ""),
        (">&- 2>&- <&-", ["jobs"], 74, ""),
        ("2>/dev/full", ["jobs", "--state", "odd"], 2, ""),
        ("2>&-", ["jobs", "--state", "odd"], 2, ""),
        ("2>&-", ["jobs"], 0, ""),
        ("2>/dev/full", ["migrate"], 0, ""),
        (
            "<&-", ["send", "-"], 2,
            "requeuest: standard input can't be read: Bad file descriptor; nothing was stored or sent\n",
        ),
        ("", ["send", "-"], 0, "requeuest: there are no requests in it, so there is nothing to send\n"),
    ],
)  # fmt: skip
def test_streams_that_are_full_or_closed(
    redirection: str, arguments: list[str], status: int, said: str, one_job: str
) -> None:
    ended, _, err = shell(redirection, *arguments, dsn=one_job)
    assert (ended, err) == (status, said)


@pytest.mark.parametrize("arguments", [["--help"], ["jobs", "--json"]])
def test_a_reader_that_has_gone(arguments: list[str], one_job: str) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [*COMMAND, *arguments], stdout=write, stderr=subprocess.PIPE, env=environment(one_job), check=False
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [(">/dev/full", 74, FULL), (">&-", 74, CLOSED), ("2>/dev/full", 0, ""), ("2>&- <&-", 0, "")],
)
async def test_what_is_sent_is_delivered_once_whoever_hears_of_it(
    redirection: str, status: int, said: str, migrated_dsn: str, tmp_path: Path
) -> None:
    async with open_receiver() as receiver:
        file = tmp_path / "requests.jsonl"
        file.write_text(f'{{"method": "POST", "url": "{receiver.url}/", "json": 1}}\n' * 3)
        ended, _, err = await trio.to_thread.run_sync(
            lambda: shell(redirection, "send", str(file), dsn=migrated_dsn), abandon_on_cancel=True
        )
        assert ended == status
        assert err.endswith(said)
        assert "Traceback" not in err
        assert len(receiver.arrivals) == 3
    async with open_requeuest(migrated_dsn, ()) as client:
        assert (await client.stats()).count(JobState.SUCCEEDED) == 3


async def test_a_summary_that_can_t_be_written_hides_no_failure(migrated_dsn: str, tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        receiver.script(Reply(500))
        file = tmp_path / "requests.jsonl"
        file.write_text(f'{{"method": "GET", "url": "{receiver.url}/"}}\n')
        ended, _, err = await trio.to_thread.run_sync(
            lambda: shell(">/dev/full", "send", str(file), "--max-attempts", "1", dsn=migrated_dsn)
        )
    assert ended == 74
    assert "is dead after 1 attempt(s)" in err


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&- >&-", "2>&1 | head -0"])
async def test_a_worker_whose_remarks_are_lost_goes_on(redirection: str, migrated_dsn: str) -> None:
    command = ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *COMMAND, "worker", "--all", "--verbose"]
    async with open_receiver() as receiver, open_requeuest(migrated_dsn, ()) as client, trio.open_nursery() as nursery:
        start = partial(trio.run_process, command, env=environment(migrated_dsn), start_new_session=True, check=False)
        worker = await nursery.start(start)
        try:
            with trio.fail_after(PATIENCE):
                for _ in range(3):
                    await client.spawn_returning("a", Request.get(receiver.url))
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
        nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
        if "|" not in redirection:
            await worker.wait()


@pytest.mark.parametrize(
    ("signals", "status"),
    [([HUP], 0), ([HUP, HUP], 129), ([TERM, HUP], 129), ([HUP, INT], 130)],
)
async def test_signals_stop_a_worker_in_order(signals: list[signal.Signals], status: int, migrated_dsn: str) -> None:
    async with open_gate() as gate, open_requeuest(migrated_dsn, ()) as client:
        job_id = await client.spawn("a", Request.get(gate.url))
        async with running("worker", "a", "--grace", "60", dsn=migrated_dsn) as worker:
            await gate.arrived.wait()
            for number in signals:
                worker.signal(number)
                await worker.wait_to_say(f"{number.name}: ")
            if status == 0:
                gate.opened.set()
            assert await worker.status() == status
            await worker.wait_to_end()
        job = await client.job(job_id)
    assert "Traceback" not in worker.said
    assert job is not None
    assert job.state is (JobState.AVAILABLE if status else JobState.SUCCEEDED)


@pytest.mark.parametrize("ignored", [HUP, INT])
async def test_what_was_ignored_at_the_start_stays_so(ignored: signal.Signals, migrated_dsn: str) -> None:
    """nohup has SIGHUP ignored, so that a worker outlives its terminal; & in a script has SIGINT ignored."""
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        async with running("worker", "--all", dsn=migrated_dsn) as worker:
            await worker.wait_to_say("delivering all channels")
            worker.signal(ignored)
            worker.signal(TERM)
            await worker.wait_to_say("stopped")
            assert await worker.status() == 0
    finally:
        signal.signal(ignored, before)
    assert ignored.name not in worker.said


INTERRUPTED = """
import os, signal, sys
class Interrupting:
    def find_spec(name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting)
from requeuest_trio.cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["click", "requeuest_trio.cli.commands", "requeuest_trio.cli.worker", "rich.table"])
def test_interrupted_while_it_is_loaded_it_says_nothing(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module), "--help"],
        capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def on_a_terminal(columns: int, *arguments: str, dsn: str, **variables: str) -> tuple[int, str]:
    """Run the command on a terminal of so many columns: its status, and what the terminal got."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=its, stdout=its, stderr=its, env=environment(dsn) | variables
    ) as running_one:
        os.close(its)
        shown = b"".join(_until_closed(ours))
    os.close(ours)
    return running_one.returncode, shown.decode()


def _until_closed(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(descriptor, 65_536)
        except OSError:  # so Linux ends a terminal
            return


ABSURD = ["0", "1", "-5", "²", "9" * 5_000]


@pytest.mark.parametrize("columns", ABSURD)
def test_a_width_that_can_t_be(columns: str, one_job: str) -> None:
    for status, shown in (
        shell("", "jobs", dsn=one_job, COLUMNS=columns, LINES=columns)[:2],
        on_a_terminal(80, "jobs", dsn=one_job, COLUMNS=columns, LINES=columns, TERM="xterm"),
    ):
        assert status == 0
        assert "Traceback" not in shown
        assert len(shown.splitlines()) >= 2
        assert columns == "1" or "available" in shown or "münze" in shown


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_a_terminal_without_colours_gets_none(variables: dict[str, str], one_job: str) -> None:
    status, shown = on_a_terminal(200, "jobs", dsn=one_job, **variables)
    assert status == 0
    assert "münze" in shown
    assert "\x1b[3" not in shown
    assert variables["TERM"] == "xterm" or "\x1b" not in shown


@pytest.mark.parametrize("locale", [{"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {}])
def test_without_a_locale(locale: dict[str, str], one_job: str) -> None:
    status, shown, err = shell("", "jobs", dsn=one_job, LC_ALL="C", **locale)
    assert (status, err) == (0, "")
    assert ("m\\xfcnze" if locale else "münze") in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker", "a,b"], "'a,b' is one channel, with a comma in its name; for several: requeuest worker a b"),
        (["worker", "All"], "'All' is one channel of that name, not every channel"),
        (["jobs", "--channel", "a,b"], "'a,b' is one channel, with a comma in its name; --channel takes one"),
        (["send", "-", "--channel", "*"], "'*' is one channel of that name, not every channel"),
    ],
)  # fmt: skip
async def test_names_that_look_like_several_or_all(arguments: list[str], said: str, migrated_dsn: str) -> None:
    async with running(*arguments, dsn=migrated_dsn) as running_one:
        await running_one.wait_to_say(f"requeuest: {said}")


def test_usual_names_are_not_remarked_on() -> None:
    assert "is one channel" not in invoke("worker", "allowed", "", "--dsn", "postgresql:///x").err


async def test_interrupted_while_it_reads_it_says_so() -> None:
    async with trio.open_nursery() as nursery:
        read, write = os.pipe()
        start = partial(
            trio.run_process,
            [*COMMAND, "send", "-", "--channel", "a,b"],
            stdin=read,
            stderr=subprocess.PIPE,
            check=False,
            env=environment("postgresql:///x"),
        )
        sending = await nursery.start(start)
        os.close(read)
        assert sending.stderr is not None
        assert b"is one channel" in await sending.stderr.receive_some()
        sending.send_signal(INT)
        with trio.fail_after(PATIENCE):
            assert await sending.wait() == 130
            assert b"Traceback" not in b"".join([bytes(chunk) async for chunk in sending.stderr])
        os.close(write)


async def test_the_package_runs_as_the_command(migrated_dsn: str) -> None:
    ended = await trio.run_process([sys.executable, "-m", "requeuest_trio", "--version"], capture_stdout=True)
    assert ended.stdout.startswith(b"requeuest-trio ")
    assert (await process("jobs", dsn=migrated_dsn)).out == "no jobs\n"
