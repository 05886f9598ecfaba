"""The docs are true: every code block runs, every link leads somewhere, and the generated parts are up to date."""

import ast
import configparser
import doctest
import inspect
import json
import logging
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx2
import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.conninfo import make_conninfo

import requeuest_trio
import requeuest_trio.checks
import requeuest_trio.events
import requeuest_trio.masking
from requeuest_trio import ALL, Channel, JobState, Request, RequeuestError, _open, open_requeuest
from requeuest_trio._engine.runner import FINISH_SECONDS
from requeuest_trio._enqueue import announcer
from requeuest_trio._observe import events
from requeuest_trio._observe.emitter import Emitter
from requeuest_trio._postgres import SETTLE_TIMEOUT
from requeuest_trio.cli.worker import worker as worker_command
from requeuest_trio.testing import Arrival, Reply, open_receiver
from tests.faults.mutations import mutants
from tests.servers import temporary_home

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "tests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
ROLE = re.compile(r"\bqueue_(?:worker|web|reader)\b")
FILE = re.compile(r"# (conftest|test_\w+)\.py\b")
"""The first line of a block that is a file for pytest."""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A piece of code in a page."""

    page: Path
    line: int
    language: str
    code: str


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in FENCE.finditer(text):
            yield Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])


BLOCKS = list(_blocks())


def _marked(language: str) -> pytest.MarkDecorator:
    blocks = [block for block in BLOCKS if block.language == language and not FILE.match(block.code)]
    names = [f"{block.page.relative_to(ROOT)}:{block.line}" for block in blocks]
    return pytest.mark.parametrize("block", blocks, ids=names)


def test_every_language_of_a_block_is_run_by_a_test_here() -> None:
    # The state diagram is compared with the state table below; what starts and stops a worker, with the code.
    languages = {"python", "pycon", "sh", "sql", "mermaid", "ini", "dockerfile", "yaml"}
    assert {block.language for block in BLOCKS} == languages


@pytest.fixture(scope="module")
def receiver_url() -> Iterator[str]:
    """A receiver in a thread of its own, since the examples bring their own Trio."""
    started = threading.Event()
    url: list[str] = []
    stop = trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    def decide(_: Arrival) -> Reply:
        return Reply(body=b'{"paid": true}', headers=(("Content-Type", "application/json"),))

    async def serve() -> None:
        async with open_receiver() as receiver:
            receiver.decide = decide
            url.append(receiver.url)
            token.append(trio.lowlevel.current_trio_token())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert started.wait(10)
    yield url[0]
    token[0].run_sync_soon(stop.set)
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def place() -> Iterator[Path]:
    """Of embedded servers."""
    with temporary_home() as path:
        yield path


@pytest.fixture
def code(block: Block, migrated_dsn: str, receiver_url: str, place: Path) -> str:
    """The block with the addresses that exist here."""
    here = block.code.replace("postgresql:///app", migrated_dsn).replace('"embedded:"', f'"embedded:{place}/data"')
    return re.sub(r"https://\w+\.example\.com", receiver_url, here)


@_marked("python")
def test_python_blocks_run(block: Block, code: str, migrated_dsn: str, receiver_url: str) -> None:
    """A whole program runs as it is; a fragment runs inside an open queue, with the names that its page speaks of."""
    if "open_signal_receiver" in code:
        _run_until_told([sys.executable, "-c", code], migrated_dsn)
        return
    if re.search(r"^(trio|anyio)\.run\(", code, re.MULTILINE):
        exec(compile(code, str(block.page), "exec"), {"__name__": "__main__"})
        return
    compiled = compile(code, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def run_inside_a_queue() -> None:
        async with open_requeuest(migrated_dsn, ALL) as client, client.transaction() as connection:
            await connection.execute("CREATE TABLE orders (id int); CREATE TABLE note (text text)")
        async with open_requeuest(migrated_dsn, ALL) as client:
            request = Request.post(receiver_url, json={"order": 7})
            names = {name: getattr(requeuest_trio, name) for name in requeuest_trio.__all__}
            names |= {name: getattr(requeuest_trio.testing, name) for name in requeuest_trio.testing.__all__}
            job_id = await client.spawn("docs", request)
            names |= {"client": client, "request": request, "job_id": job_id, "dsn": migrated_dsn}
            names |= {"url": receiver_url, "names": ["ada"], "mail": {"to": "ada"}, "httpx2": httpx2, "trio": trio}
            if (coroutine := eval(compiled, names)) is not None:
                await coroutine

    trio.run(run_inside_a_queue)


def test_the_formatter_of_the_page_writes_one_json_object_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Of records of the queue, which have ids in them, and of others."""
    [block] = [block for block in BLOCKS if "JsonLines" in block.code]
    names: dict[str, Any] = {}
    exec(compile(block.code, str(block.page), "exec"), names)
    job_id = uuid4()
    Emitter().emit(events.OutcomeRefused(job=job_id, error="a\nb"))
    try:
        raise KeyError("other")
    except KeyError:
        logging.getLogger("app").exception("went\nwrong")
    ours, other = [names["JsonLines"]().format(record) for record in caplog.records]
    assert "\n" not in ours + other
    read = json.loads(ours)
    assert (read["event"], read["job"], read["error"]) == ("outcome_refused", str(job_id), "a\\nb")
    assert json.loads(other)["message"].startswith("went\nwrong\nTraceback")


@_marked("pycon")
def test_sessions_show_what_happens(block: Block) -> None:
    names = {name: getattr(requeuest_trio, name) for name in requeuest_trio.__all__}
    session = doctest.DocTestParser().get_doctest(block.code, names, str(block.page), None, block.line)
    assert doctest.DocTestRunner().run(session).failed == 0


@_marked("sql")
def test_sql_blocks_run(block: Block, code: str, migrated_dsn: str) -> None:
    with granted(migrated_dsn, code):
        pass


@contextmanager
def granted(dsn: str, *statements: str) -> Iterator[dict[str, str]]:
    """Run statements of a page; the DSNs of the roles that they speak of, which exist as long as the block lasts."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        database = connection.info.dbname
        names = {name: f"{name} of {database}" for text in statements for name in ROLE.findall(text)}
        quoted = {name: sql.Identifier(names[name]).as_string() for name in names}
        for role in quoted.values():
            connection.execute(f"CREATE ROLE {role} LOGIN".encode())
        try:
            for text in statements:
                connection.execute(ROLE.sub(lambda found: quoted[found[0]], text).encode())
            yield {name: make_conninfo(dsn, user=role) for name, role in names.items()}
        finally:
            for role in quoted.values():
                connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


async def test_the_roles_can_do_what_the_page_says(migrated_dsn: str, receiver_url: str) -> None:
    blocks = [block.code for block in BLOCKS if block.language == "sql" and ROLE.search(block.code)]
    request = Request.get(receiver_url)
    with granted(migrated_dsn, *blocks) as dsns:
        assert dsns.keys() == {"queue_worker", "queue_web", "queue_reader"}
        async with (
            open_requeuest(dsns["queue_worker"], ["a", Channel("ledger", ordered=True)]) as worker,
            open_requeuest(dsns["queue_web"], (), poll_interval=0.05) as web,
            open_requeuest(dsns["queue_reader"], ()) as reader,
        ):
            for channel, key in (("a", None), ("a", "k"), ("ledger", None)):
                assert (await web.result(await web.spawn(channel, request, ordering_key=key))).status_code == 200
            async with web.transaction() as connection:
                job_id = await web.spawn("a", request, ordering_key="k", connection=connection)
            await web.wait(job_id)
            for call in (web.attempts(job_id), web.clear(ALL), reader.spawn("a", request)):
                with pytest.raises(RequeuestError, match="lacks a right"):
                    await call
            assert len(await reader.attempts(job_id)) == 1
            assert (await reader.stats()).count(JobState.SUCCEEDED) == 4
            await worker.spawn_returning("a", request, ordering_key="k")


@_marked("sh")
def test_shell_blocks_run(block: Block, migrated_dsn: str) -> None:
    for line in block.code.splitlines():
        words = [word.replace("postgresql:///app", migrated_dsn) for word in shlex.split(line, comments=True)]
        if words[:2] == ["pip", "install"]:
            _check_requirement(words[2])
        elif words[0] == "make":
            subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[:2] == ["requeuest", "worker"]:
            _run_until_told([sys.executable, "-m", "requeuest_trio.cli", *words[1:]], migrated_dsn)
        elif words[0] == ".venv/bin/pytest":
            subprocess.run([sys.executable, "-m", "pytest", "-q", "--collect-only", *words[1:]], cwd=ROOT, check=True)
        elif words[:3] == [".venv/bin/python", "-m", "tests.faults.mutations"]:
            assert words[3] in {mutant.name for mutant in mutants()}
        else:
            assert words[0] == "requeuest", line
            subprocess.run(
                [sys.executable, "-m", "requeuest_trio.cli", *words[1:]], check=True, capture_output=True, timeout=60
            )


def _check_requirement(requirement: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    name, _, extras = requirement.rstrip("]").partition("[")
    assert name == project["name"]
    assert set(filter(None, extras.split(","))) <= project["optional-dependencies"].keys()


def _run_until_told(command: list[str], dsn: str) -> None:
    """Run a worker until it delivers, and end it in order."""
    with psycopg.connect(dsn, autocommit=True) as connection, subprocess.Popen(command) as worker:
        patience = time.monotonic() + 30
        try:
            while not connection.execute("SELECT FROM requeuest.worker").rowcount:
                assert worker.poll() is None
                assert time.monotonic() < patience
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        finally:
            worker.kill()


def test_who_stops_a_worker_waits_for_longer_than_it_takes() -> None:
    text = (ROOT / "docs" / "workers.md").read_text("utf-8")
    [of_the_command] = [option.default for option in worker_command.params if option.name == "grace"]
    grace = inspect.signature(open_requeuest).parameters["grace"].default
    recording = FINISH_SECONDS + announcer._LAST_SECONDS + 3 * SETTLE_TIMEOUT
    assert f"{recording:g} s for recording" in text
    closing = recording + _open._CLOSE_SECONDS
    assert of_the_command == grace
    assert f"`grace` + {closing:g} s before it kills" in text
    for pattern in ("TimeoutStopSec=", "stop_grace_period: ", "`terminationGracePeriodSeconds` is "):
        [patience] = re.findall(rf"{pattern}(\d+)", text)
        assert int(patience) > grace + closing, pattern


def test_what_starts_a_worker_is_a_command() -> None:
    [unit] = [block.code for block in BLOCKS if block.language == "ini" and "[Service]" in block.code]
    [container] = [block.code for block in BLOCKS if block.language == "dockerfile"]
    [service] = [block.code for block in BLOCKS if block.language == "yaml"]
    parser = configparser.ConfigParser()
    parser.read_string(unit)
    instructions = dict(line.split(" ", 1) for line in container.splitlines())
    _check_requirement(shlex.split(instructions["RUN"])[-1])
    in_container = json.loads(instructions["ENTRYPOINT"]) + json.loads(instructions["CMD"])
    for program, name, *arguments in (parser["Service"]["ExecStart"].split(), in_container):
        assert (Path(program).name, name) == ("requeuest", "worker")
        assert worker_command.make_context(name, [*arguments, "--dsn", "postgresql:///app"]).params["channels"]
    for text in (parser["Service"]["Environment"], service):
        assert "REQUEUEST_DSN" in text


@pytest.mark.parametrize("plugin", ["trio", "anyio"])
def test_the_fixtures_work_with_both_plugins(plugin: str, tmp_path: Path) -> None:
    blocks = [block for block in BLOCKS if block.page.stem == "testing"]
    for block in blocks:
        if found := FILE.match(block.code):
            with (tmp_path / f"{found[1]}.py").open("a") as file:
                file.write(block.code)
    [settings] = [block.code for block in blocks if block.language == "ini" and plugin in block.code]
    (tmp_path / "pytest.ini").write_text(settings)
    other = {"trio": "anyio", "anyio": "trio"}[plugin]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", f"no:{other}", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_generated_parts_are_up_to_date() -> None:
    spec = spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = [page for page in PAGES if "<!-- generated: " in page.read_text("utf-8")]
    assert {page.stem for page in pages} == {"lifecycle", "operating", "reference"}
    for page in pages:
        text = page.read_text("utf-8")
        assert generate.generated(text) == text, f"run: python docs/generate.py ({page.name})"


def test_every_public_name_is_on_the_reference_page() -> None:
    headings = set(re.findall(r"^### (\w+)$", (ROOT / "docs" / "reference.md").read_text("utf-8"), re.MULTILINE))
    modules = [requeuest_trio, requeuest_trio.checks, requeuest_trio.masking, requeuest_trio.testing]
    assert headings == {name for module in modules for name in module.__all__}


def test_every_kind_of_event_is_on_the_reference_page() -> None:
    named = set(re.findall(r"^\| `([A-Z]\w+)` \| `", (ROOT / "docs" / "reference.md").read_text("utf-8"), re.MULTILINE))
    assert set(requeuest_trio.events.__all__) - {"Event"} <= named


def test_the_tests_that_pages_name_exist() -> None:
    named = {
        (path, name)
        for page in PAGES
        for path, names in re.findall(
            r"`((?:unit|postgres|engine|http|faults|acceptance)/\w+\.py)((?:::\w+)?)`", page.read_text("utf-8")
        )
        for name in [names.removeprefix("::")]
    }
    assert len(named) > 20
    for path, name in named:
        source = (ROOT / "tests" / path).read_text("utf-8")
        assert not name or f"def {name}(" in source, f"{path}::{name}"
