"""`requeuest migrate`, and what all commands do where they can do nothing."""

import shlex
import subprocess
import sys

import pytest
from psycopg.conninfo import make_conninfo

from requeuest_trio.cli import commands
from tests.acceptance.cli import environment, invoke, requeuest


async def test_it_says_what_it_did(dsn: str) -> None:
    first = await requeuest("migrate", dsn=dsn)
    assert (first.status, first.err) == (0, "")
    assert first.out.splitlines()[0].endswith(".up")
    again = await requeuest("migrate", dsn=dsn)
    assert (again.status, again.out) == (0, "nothing to do\n")
    refused = await requeuest("migrate", "--target", "0", dsn=dsn)
    assert (refused.status, refused.out) == (2, "")
    assert "say --yes" in refused.err
    back = await requeuest("migrate", "--target", "0", "--yes", dsn=dsn)
    assert back.status == 0
    assert back.out.splitlines()[-1].endswith(".down")


async def test_a_schema_of_ones_own(dsn: str) -> None:
    assert (await requeuest("migrate", "--schema", "mine", dsn=dsn)).status == 0
    assert (await requeuest("jobs", "--schema", "mine", dsn=dsn)).out == "no jobs\n"
    missing = await requeuest("jobs", dsn=dsn)
    assert missing.status == 2
    assert "--schema requeuest" in missing.err
    bad = await requeuest("jobs", "--schema", "No!", dsn=dsn)
    assert bad.status == 2
    assert bad.err.startswith("requeuest: schema: ")


@pytest.mark.parametrize(
    "secret",
    [
        "postgresql://user:geheim@127.0.0.1:1/app?connect_timeout=2",
        "postgresql://user:geheim@127.0.0.1:port/app",
        "postgresql://user:geheim@/app?geheim",
        "host=127.0.0.1 port=1 password='geheim",
        "postgresql://user:a?geheim=b@127.0.0.1:1/app",
    ],
)
def test_a_dsn_that_leads_nowhere_is_one_line_without_its_password(secret: str) -> None:
    ended = invoke("jobs", "--dsn", secret)
    assert (ended.status, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert line.startswith("requeuest: ")
    assert "geheim" not in line


@pytest.mark.parametrize(
    "command", [("jobs",), ("show", "01a20355-869e-7290-a022-cbe3994d39e2"), ("send", "-"), ("worker", "a")]
)
async def test_missing_tables_are_one_line_without_the_password(command: tuple[str, ...], dsn: str) -> None:
    secret = make_conninfo(dsn, password="geheim")
    ended = await requeuest(*command, "--dsn", secret, stdin='{"method": "GET", "url": "http://localhost/"}')
    assert (ended.status, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    where = "with its password in PGPASSWORD or in a password file"
    assert f"are missing; {where}, run: requeuest migrate --dsn" in line
    assert "geheim" not in line
    assert "***" not in line
    # Pasted, with the password where it says, it works.
    pasted = shlex.split(line.partition("run: requeuest ")[2].partition(" (")[0])
    assert (await requeuest(*pasted)).status == 0


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from requeuest_trio.cli.__main__ import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment(None)
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "requeuest: the command is not installed: run pip install 'requeuest-trio[cli]'\n"


@pytest.mark.parametrize("command", sorted(commands.requeuest.commands))
def test_every_command_has_an_example(command: str) -> None:
    ended = invoke(command, "--help")
    assert ended.status == 0
    assert f"requeuest {command}" in ended.out.partition("Example:")[2].partition("Options:")[0]


def test_the_version() -> None:
    ended = invoke("--version")
    assert ended.status == 0
    assert ended.out.startswith("requeuest-trio ")
