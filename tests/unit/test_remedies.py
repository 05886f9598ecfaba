"""What an error of the database says beside what is wrong."""

import pytest

from requeuest_trio._store.remedies import remedy_for


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("no connection within connect_timeout=1.0 s", "; see whether host and port are right"),
        ("connection to server failed: timeout expired", "; see whether host and port are right"),
        ("no connection within 1 s: all 1 are in use", ""),
    ],
)
def test_only_who_can_t_connect_is_to_look_at_the_way(reason: str, remedy: str) -> None:
    assert remedy_for(reason).startswith(remedy)
    assert bool(remedy_for(reason)) == bool(remedy)
