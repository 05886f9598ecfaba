"""Naming what a process delivers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, final

from requeuest_trio._model import checks
from requeuest_trio._model.errors import InvalidRequest, kind_of, shown

__all__ = ["ALL", "All", "Channel", "channels_of"]


@final
class All:
    """The type of `ALL`."""

    def __repr__(self) -> str:
        return "ALL"


ALL: Final = All()
"""Every channel, also those that appear later."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel with settings, for the `channels` of `open_requeuest`.

    Args:
        name: 1 to 200 characters.
        ordered: keyword-only. True makes the whole channel one sequence: its jobs are sent one at a time, in the order
            of their commits, and the next waits until the one before is finished (delivered or dead), through all
            its retries. The setting is kept in the database and holds for all processes; jobs that were queued
            before it was made keep their freedom. False takes it back. None, and a plain `str`, leave it as it is.

    Raises:
        InvalidRequest: the name is empty, too long, or no text; or, of one with settings, it has line ends, control or
            bidirectional characters, as names that other programs have stored may.

    Example::

        async with open_requeuest(dsn, [Channel("ledger", ordered=True), "mail"]) as client:
            ...
    """

    name: str
    ordered: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # A frozen dataclass has to set its fields this way.
        object.__setattr__(self, "name", checks.channel_name(self.name))
        if self.ordered is not None:
            checks.new_name("channel", self.name, checks.MAX_CHANNEL_LENGTH)
        if self.ordered is not None and not isinstance(self.ordered, bool):
            raise InvalidRequest("ordered", f"must be a bool or None, not {type(self.ordered).__name__}")


def channels_of(channels: Iterable[str | Channel] | All) -> tuple[frozenset[str] | All, tuple[Channel, ...]]:
    """The names to deliver, and the channels that come with settings."""
    if isinstance(channels, All):
        return channels, ()
    if isinstance(channels, str):
        raise InvalidRequest("channels", f"must be a collection of names; write [{shown(channels)}]")
    if isinstance(channels, Channel):
        raise InvalidRequest(
            "channels", f"must be a collection of channels; write [Channel({shown(channels.name)}, ...)]"
        )
    try:
        given = list(channels)
    except TypeError as error:
        raise InvalidRequest("channels", f"must be a collection of names or ALL, not {shown(channels)}") from error
    if any(isinstance(channel, All) for channel in given):
        raise InvalidRequest("channels", "ALL stands alone; write ALL, not [ALL]")
    settings = tuple(channel for channel in given if isinstance(channel, Channel) and channel.ordered is not None)
    for channel in given:
        if not isinstance(channel, str | Channel):
            raise InvalidRequest("channels", f"must be names or Channel objects, not {kind_of(channel)}")
    names = [channel.name if isinstance(channel, Channel) else checks.channel_name(channel) for channel in given]
    if len(set(names)) != len(names):
        raise InvalidRequest("channels", "must name each channel once")
    return frozenset(names), settings
