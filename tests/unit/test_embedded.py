"""What an `embedded:` DSN means. The server behind it is tested in `tests/acceptance/test_embedded.py`."""

from pathlib import Path

import pytest

from requeuest_trio._model.errors import InvalidRequest
from requeuest_trio.embedded import embedded_path


@pytest.mark.parametrize(
    "dsn", ["", "postgresql:///app", "host=/tmp dbname=embedded:", "Embedded:", "embedded", " embedded:"]
)
def test_another_dsn_is_somebody_elses(dsn: str) -> None:
    assert embedded_path(dsn) is None


@pytest.mark.parametrize(
    ("dsn", "path"),
    [
        ("embedded:/srv/queue", "/srv/queue"),
        ("embedded:///srv/queue", "/srv/queue"),
        ("embedded:/srv/a b/ö,%20?x=1", "/srv/a b/ö,%20?x=1"),
        ("embedded:~/queue", "/home/somebody/queue"),
    ],
)
def test_a_path_is_taken_as_it_is_written(dsn: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert embedded_path(dsn) == Path(path)


@pytest.mark.parametrize(
    "dsn", ["embedded:data", "embedded:./data", "embedded://host/data", "embedded:/a\0b", "embedded:~~/a"]
)
def test_a_path_that_is_not_absolute_is_refused(dsn: str) -> None:
    """A relative one would mean another database in every working directory."""
    with pytest.raises(InvalidRequest, match=r"^dsn: 'embedded:"):
        embedded_path(dsn)


def test_without_a_path_it_is_the_users_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert embedded_path("embedded:") == Path("/data/requeuest-trio/postgres")
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")  # to be ignored, says the specification
    assert embedded_path("embedded:") == Path("/home/somebody/.local/share/requeuest-trio/postgres")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert embedded_path("embedded:") == Path("/home/somebody/.local/share/requeuest-trio/postgres")
