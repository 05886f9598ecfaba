"""
What is shipped: the sdist and the wheel are built, and the wheel is used where nothing else of this project is.

Nothing is downloaded. The sdist is built from this checkout and the wheel from that sdist, by the hatchling that is
installed. The environment into which the wheel goes borrows its dependencies from the one that runs the tests.
"""

import email
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from requeuest_trio._store.migrate import migrations

ROOT = Path(__file__).parents[2]

MIGRATE = """
import sys, trio, requeuest_trio
assert "site-packages" in requeuest_trio.__file__, requeuest_trio.__file__
print(*trio.run(requeuest_trio.migrate, sys.argv[1]))
"""


@dataclass(frozen=True, slots=True)
class Built:
    """The paths of what was built."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist of this checkout, and a wheel that was built from nothing but that sdist."""
    target = tmp_path_factory.mktemp("dist")
    # `python -m build` without options does just that: first the sdist, then the wheel from the unpacked sdist.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT))
    (sdist,) = target.glob("*.tar.gz")
    (wheel,) = target.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def elsewhere(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment into which only the wheel was installed."""
    path = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(path, with_pip=False, symlinks=True)
    python = path / "bin" / "python"
    (site,) = path.glob("lib/python*/site-packages")
    with zipfile.ZipFile(built.wheel) as wheel:  # all that installing a wheel of pure Python comes to
        wheel.extractall(site)
    borrow_dependencies(site)
    return python


def borrow_dependencies(site: Path) -> None:
    """
    Link everything of the test environment into `site`, except this project, whichever way it was installed there.

    The `.pth` files stay behind: an editable install is one, and leads back to the checkout.
    """
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if installed.suffix != ".pth" and not installed.name.startswith(("requeuest_trio", "__pycache__")):
            (site / installed.name).symlink_to(installed)


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sql_files() -> list[str]:
    return sorted(path.name for path in (ROOT / "migrations").glob("*.sql"))


def test_the_sdist_has_everything(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {f"migrations/{name}" for name in sql_files()}
    wanted |= {
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "README.md",
        "Makefile",
        "pyproject.toml",
        "hatch_build.py",
        "src/requeuest_trio/py.typed",
    }
    assert wanted <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/"))]


def test_the_wheel_has_everything(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    wanted = {f"requeuest_trio/migrations/{name}" for name in sql_files()}
    wanted |= {f"{info}/licenses/LICENSE-MIT", f"{info}/licenses/LICENSE-APACHE", "requeuest_trio/py.typed"}
    wanted |= {
        str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*") if path.suffix in {".py", ".sql"}
    }
    assert wanted <= names
    assert {name.partition("/")[0] for name in names} == {"requeuest_trio", info}


def tokens_of(text: str) -> list[Token]:
    """Everything in a Markdown text, as package indexes read it."""
    return flat(MarkdownIt("gfm-like", {"linkify": False}).parse(text))


def flat(tokens: Sequence[Token]) -> list[Token]:
    return [one for token in tokens for one in (token, *flat(token.children or ()))]


def code_in(tokens: Sequence[Token]) -> list[str]:
    return [token.content for token in tokens if token.type == "fence"]


def test_no_link_of_the_description_is_relative(built: Built) -> None:
    """A package index shows it at an address of its own, where none of the project's files is."""
    with zipfile.ZipFile(built.wheel) as wheel:
        (path,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(wheel.read(path))
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = metadata.get_payload(decode=True)
    assert isinstance(description, bytes)
    shown = tokens_of(description.decode())
    targets = [str(token.attrs[name]) for token in shown for name in ("href", "src") if name in token.attrs]
    assert targets
    assert [target for target in targets if not urlsplit(target).scheme] == []
    assert not [token for token in shown if token.type.startswith("html")]  # which could have links as well

    readme = tokens_of((ROOT / "README.md").read_text())
    assert code_in(shown) == code_in(readme)
    text = description.decode()
    for token in readme:
        target = str(token.attrs.get("href", "https://"))
        assert urlsplit(target).scheme or f"(`{target}`)" in text


def test_each_migration_has_a_way_back() -> None:
    assert sql_files() == sorted(f"{step.name}.{way}.sql" for step in migrations() for way in ("up", "down"))


def test_the_wheel_migrates_a_database(elsewhere: Path, dsn: str, tmp_path: Path) -> None:
    """From another directory, with no checkout in reach."""
    applied = run(str(elsewhere), "-c", MIGRATE, dsn, cwd=tmp_path).split()
    assert [f"{step.name}.up" for step in migrations()] == applied
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select to_regclass('requeuest.job') is not null").fetchone()
    assert row == (True,)


def test_the_wheel_brings_the_command(elsewhere: Path, built: Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
        assert "requeuest = requeuest_trio.cli.__main__:main" in wheel.read(entry_points).decode()
    assert "Usage" in run(str(elsewhere), "-m", "requeuest_trio.cli", "--help", cwd=tmp_path)
