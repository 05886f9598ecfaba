"""What every event is: a value of few, bounded fields, with a fixed name, room and level."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, ClassVar, TypeVar, dataclass_transform

from requeuest_trio._model.escaping import cut, escaped

__all__ = ["Event", "kind"]

_LONGEST = 1_000
"""Of a text in a field."""
_INNER_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class Event:
    """Something that has happened in an open queue. Each class of `requeuest_trio.events` is one kind of event.

    Its fields are attributes: numbers, ids, and texts of at most 1,000 characters in which nothing steers a terminal or
    a log. None has a header, a body or a password. `str(event)` is the line that the log has of it.
    """

    __slots__ = ()

    name: ClassVar[str]
    """What the log calls it, such as `job_dead` for a `JobDead`."""
    level: ClassVar[int]
    """How much it matters, as `logging` has it: `logging.WARNING` and above are for an operator."""
    room: ClassVar[str]
    """The part of the library that tells of it. Its logger is `requeuest_trio.<room>`."""

    _names: ClassVar[tuple[str, ...]]
    _texts: ClassVar[tuple[str, ...]]
    """The names of those fields that may hold a text, or several."""

    def __init_subclass__(cls) -> None:
        cls.name = _INNER_CAPITAL.sub("_", cls.__name__).lower()
        cls._names = tuple(cls.__annotations__)
        cls._texts = tuple(name for name, type_ in cls.__annotations__.items() if "str" in type_)

    def __post_init__(self) -> None:
        """Texts come from anywhere, such as the names of channels and what receivers and databases say."""
        for name in self._texts:
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, _harmless(value))
            elif isinstance(value, tuple):
                object.__setattr__(self, name, tuple(_harmless(each) for each in value))

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{name}={value}" for name, value in self.fields().items())])

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, name):
            raise FrozenInstanceError(f"an event does not change, nor its {name}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"an event does not change, nor its {name}")

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._names)})"

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def fields(self) -> dict[str, Any]:
        """The fields by name, as JSON has values: ids and states are texts, and several texts are a list."""
        return {name: _plain(getattr(self, name)) for name in self._names}

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self._names)


E = TypeVar("E", bound=Event)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def kind(room: str, level: int) -> Callable[[type[E]], type[E]]:
    """Make a class a kind of event. The class has its fields, and says in its docstring what it means."""

    def made(cls: type[E]) -> type[E]:
        # What all have in common is written once, in `Event`: to generate it for each kind takes longer to import.
        value = dataclass(slots=True, kw_only=True, repr=False, eq=False, match_args=False)(cls)
        value.room = room
        value.level = level
        return value

    return made


def _harmless(text: str) -> str:
    return cut(escaped(text), _LONGEST)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return list(value) if isinstance(value, tuple) else str(value)
