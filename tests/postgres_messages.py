"""
PostgreSQL's protocol, as far as one who passes it on has to understand it: where messages end, and what is executed.

Statements of the library go by their names in `_store/sql/` and `migrations/`, all others by their text.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache

import trio

from requeuest_trio._store.migrate import migrations
from requeuest_trio._store.queries import Queries, parsed

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
# By the client; by the server.
QUERY, PARSE, BIND, EXECUTE, SYNC = b"Q", b"P", b"B", b"E", b"S"
READY, KEY_DATA = b"Z", b"K"

_SCHEMA = "requeuest"
_PARAMETER = re.compile(r"%\(\w+\)[sbt]|\$\d+")


@dataclass(frozen=True, slots=True)
class Message:
    """One message, whole."""

    kind: bytes
    """Its letter; nothing for the first ones of a connection, which have none."""
    data: bytes
    """All of its bytes."""

    @property
    def body(self) -> bytes:
        return self.data[len(self.kind) + 4 :]

    @property
    def code(self) -> int:
        """What a message without a letter asks for."""
        return int(struct.unpack_from("!I", self.data, 4)[0])


class Messages:
    """Cuts a stream of bytes into messages."""

    def __init__(self, *, have_letters: bool) -> None:
        self.have_letters = have_letters
        self._rest = bytearray()

    def feed(self, data: bytes | bytearray) -> Iterator[Message]:
        self._rest += data
        while True:
            letters = 1 if self.have_letters else 0
            if len(self._rest) < letters + 4:
                return
            size = letters + struct.unpack_from("!I", self._rest, letters)[0]
            if len(self._rest) < size:
                return
            message = bytes(self._rest[:size])
            del self._rest[:size]
            yield Message(message[:letters], message)


class Loss:
    """An answer that is lost, or is to be."""

    def __init__(self, when: When, *, is_half: bool = False) -> None:
        self.when = when
        self.is_half = is_half
        """Whether all of it comes through but its end, which says that the server is ready again."""
        self.happened = trio.Event()


@dataclass(eq=False, slots=True)
class Round:
    """What a client sends until it waits for the server to be ready again."""

    loss: Loss | None = None
    """Whether nothing of the answer is to come back."""


@dataclass(slots=True)
class Conversation:
    """What has been said on one connection."""

    program: str | None = None
    """What the client calls itself."""
    backend: int | None = None
    """The server's process for it."""
    executed: list[str] = field(default_factory=list)
    """All statements that the client wanted to be executed."""
    in_transaction: list[str] = field(default_factory=list)
    """Those of the transaction that is open now, or of the statement that is its own."""
    rounds: deque[Round] = field(default_factory=lambda: deque([Round()]))
    """Those not yet answered. The first one is the start of the session."""
    _current: Round | None = None
    _prepared: dict[bytes, str] = field(default_factory=dict)
    _bound: dict[bytes, str] = field(default_factory=dict)

    def begun(self, message: Message) -> None:
        """The client has sent this first of all."""
        given = message.body[4:].decode(errors="replace").split("\0")
        self.program = dict(zip(given[::2], given[1::2], strict=False)).get("application_name")

    def sent(self, message: Message) -> tuple[Round, str | None]:
        """The client has sent this. Returns its round, and the statement that it asks to execute, if it does."""
        if self._current is None:
            self._current = Round()
            self.rounds.append(self._current)
        current, statement = self._current, None
        body = message.body
        if message.kind == QUERY:
            statement = name_of(body[:-1].decode())
        elif message.kind == PARSE:
            name, text, _ = body.split(b"\0", 2)
            self._prepared[name] = name_of(text.decode())
        elif message.kind == BIND:
            portal, name, _ = body.split(b"\0", 2)
            self._bound[portal] = self._prepared.get(name, "")
        elif message.kind == EXECUTE:
            statement = self._bound[body.split(b"\0", 1)[0]]
        if statement is not None:
            self.executed.append(statement)
            self.in_transaction.append(statement)
        if message.kind in {QUERY, SYNC}:
            self._current = None
        return current, statement

    def answered(self, message: Message) -> Round:
        """The server has sent this. Returns the round that it belongs to."""
        if message.kind == KEY_DATA:
            [self.backend] = struct.unpack_from("!I", message.body)
        if message.kind != READY:
            return self.rounds[0] if self.rounds else Round()
        if message.body == b"I":
            self.in_transaction.clear()
        return self.rounds.popleft()


When = Callable[[Conversation], bool]
"""Asked about each statement, which is then the last of a conversation."""


def executing(statement: str) -> When:
    """It is this one."""
    return lambda conversation: conversation.executed[-1] == statement


def committing(*statements: str) -> When:
    """With it, all of these are committed: it is the COMMIT of their transaction, or the only one, without a COMMIT."""

    def does(conversation: Conversation) -> bool:
        *before, last = conversation.in_transaction
        if before and before[0] == "BEGIN":
            return last == "COMMIT" and set(statements) <= set(before)
        return (last,) == statements

    return does


def name_of(text: str) -> str:
    """Of a statement of the library's its name; any other is its own."""
    if text.startswith("LISTEN "):
        return "listen"  # the only one that is not the same in every schema
    if text.startswith("BEGIN"):
        return "BEGIN"  # whatever kind of transaction it is, and whatever settings come along
    if text.startswith("CLOSE ALL;"):
        return "clean_session"  # with the settings that come along
    return _named(text)


@lru_cache(1_000)
def _named(text: str) -> str:
    return _names().get(_PARAMETER.sub("$", text.strip()), text)


@cache
def _names() -> dict[str, str]:
    texts = query_texts()
    for step in migrations():
        texts |= {f"{step.name}.up": step.up.strip(), f"{step.name}.down": step.down.strip()}
    return {_PARAMETER.sub("$", text.replace("%%", "%")): name for name, text in texts.items()}


def query_texts() -> dict[str, str]:
    """All statements of the store, by name."""
    queries = Queries(_SCHEMA)
    return {name: queries[name].decode() for name in parsed()}
