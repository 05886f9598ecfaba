"""
A directory of our own: found, or made, so that no other user can exchange it or anything in it.

The way there is walked from the root, one name after the other, each relative to the open directory before it. Every
directory on the way has to be root's or ours, and nobody else may rename what is in it; a link is followed only if root
or we have made it. The directory itself has to be ours, and closed to writing by others. After that, its path is as
good as a descriptor: whoever could make it lead elsewhere is root or us.
"""

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from requeuest_trio._model.errors import RequeuestError

MAX_LINKS = 40
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWOTH
_GROUP_WRITES = stat.S_IWGRP


def own_directory(path: Path, mode: int) -> Path:
    """
    Find or make a directory of our own.

    Args:
        path: absolute. What is missing on the way is made too.
        mode: the permissions of what is made.

    Returns:
        Its path without links.

    Raises:
        RequeuestError: it is somebody else's, or somebody else could exchange it; the text says which directory it is.
        OSError: it cannot be made or looked at.
    """
    names, found, links = list(reversed(path.parts[1:])), Path("/"), 0
    directory = os.open("/", _OPEN)
    try:
        while names:
            _require_unexchangeable(found, os.fstat(directory))
            name = names.pop()
            if name == "..":
                found = found.parent
                directory = _instead(directory, os.open(found, _OPEN))
                continue
            status = _status_or_new(name, mode, directory)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                target = _target(found / name, status, name, directory)
                if links > MAX_LINKS:
                    raise RequeuestError(f"{path} leads through more than {MAX_LINKS} links")
                names += reversed(target.parts)
                if target.is_absolute():
                    names.pop()
                    found, directory = Path("/"), _instead(directory, os.open("/", _OPEN))
            else:
                found, directory = found / name, _instead(directory, os.open(name, _OPEN, dir_fd=directory))
        _require_own(found, os.fstat(directory))
    finally:
        os.close(directory)
    return found


def _status_or_new(name: str, mode: int, directory: int) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        # If somebody else is quicker, whether theirs will do is seen as with any other.
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=directory)
        return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _target(path: Path, status: os.stat_result, name: str, directory: int) -> Path:
    if status.st_uid not in _trusted():
        raise RequeuestError(f"{path} is a link that user {status.st_uid} has made, who could let it lead anywhere")
    return Path(os.readlink(name, dir_fd=directory))


def _instead(old: int, new: int) -> int:
    os.close(old)
    return new


def _trusted() -> Sequence[int]:
    return (0, os.geteuid())


def _require_unexchangeable(path: Path, status: os.stat_result) -> None:
    """Nobody but root and us may rename what is in a directory: it is theirs, or they could write to it."""
    if status.st_uid not in _trusted():
        raise RequeuestError(
            f"{path} belongs to user {status.st_uid}, who could exchange what is in it: choose a directory of your own"
        )
    if status.st_mode & stat.S_ISVTX:
        return  # as in /tmp: only who has made something there may rename it
    if status.st_mode & _OTHERS_WRITE or (status.st_mode & _GROUP_WRITES and status.st_gid not in {0, os.getegid()}):
        raise RequeuestError(
            f"others may write to {path}, and could exchange what is in it: choose another directory, or run "
            f"`chmod go-w {path}`"
        )


def _require_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise RequeuestError(
            f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()}, who runs this: choose another one"
        )
    if status.st_mode & (_OTHERS_WRITE | _GROUP_WRITES):
        raise RequeuestError(f"others may write to {path}: choose another directory, or run `chmod go-w {path}`")
