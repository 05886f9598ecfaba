"""Checks that need no open queue: for names from files and forms, before anything is stored."""

from __future__ import annotations

from requeuest_trio._model import checks

__all__ = ["channel_name", "ordering_key"]


def channel_name(value: object) -> str:
    """Check the name of a channel as `Client.spawn` would.

    Returns:
        The name, as a plain `str`.

    Raises:
        InvalidRequest: it is no text of 1 to 200 characters, or has line ends, control or bidirectional characters.
    """
    return checks.new_name("channel", value, checks.MAX_CHANNEL_LENGTH)


def ordering_key(value: object) -> str:
    """Check an ordering key as `Client.spawn` would.

    Returns:
        The key, as a plain `str`.

    Raises:
        InvalidRequest: it is no text of 1 to 200 characters, or has line ends, control or bidirectional characters.
    """
    return checks.new_name("ordering_key", value, checks.MAX_KEY_LENGTH)
