"""Everything that can be set and is no argument of `open_requeuest` itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, fields

from requeuest_trio._model import checks
from requeuest_trio._model.dsn import HiddenText, problem_of
from requeuest_trio._model.errors import InvalidRequest, kind_of, shown
from requeuest_trio._model.exact import exact_text
from requeuest_trio._model.frames import without_locals_when_made
from requeuest_trio._model.origin import origin_of
from requeuest_trio._model.urls import checked_url

__all__ = ["Config", "check_dsn"]

_MIB = 1_048_576
_FOR_EVER = ("keep_succeeded", "keep_dead")
"""What is None where there is no limit."""


@without_locals_when_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Limits and intervals of one `open_requeuest`. Frozen; checked when it is made. Times are seconds, sizes bytes.

    Raises:
        InvalidRequest: naming the field and its limits.

    Example::

        >>> Config(attempt_timeout=10.0).attempt_timeout
        10.0
    """

    attempt_timeout: float = 30.0
    """How long one attempt may take, from name lookup to the last byte, unless `timeout=` or the request says
    otherwise; 0.001 to 86,400 s."""
    max_request_body: int = 10 * _MIB
    """A larger body is refused by `spawn`; up to 256 MiB."""
    max_response_body: int = _MIB
    """An answer's body is read up to here, and kept if a caller waits for it; it is marked as truncated past it. Up to
    64 MiB."""
    keep_response: int = 20_000
    """An answer that no caller waits for is kept up to here, and marked as truncated past it; `result` gives
    what was kept. Up to 64 MiB."""
    excerpt: int = 1_024
    """How much of an answer's body each attempt keeps; up to 1 MiB."""
    max_redirects: int = 5
    """How many redirects a request with `follow_redirects=True` may follow; 0 to 20."""
    redirect_bodies_to: Collection[str] = ()
    """Origins, such as `https://api.example.com`, to which a redirect from another origin may carry a request's body.
    To any other it is not followed, and is judged by its own status."""
    sensitive: Collection[str] = ()
    """Names of header fields and URL parameters, in any case, whose values are hidden in errors, beside those
    that look secret anyway. Such fields go to no other origin."""
    max_running: int = 512
    """How many attempts this process makes at once, over all channels; at least `concurrency`, up to 100,000. An eighth
    of them, rounded up, is reserved for channels that have none in flight, one for each: so attempts that hang in some
    channels do not keep another from its first. Nothing is reserved if this process delivers one channel only, by
    name."""
    pool_size: int = 4
    """How many database connections this client's callers share, beside those of the runner; 2 to 100. One less may be
    lent to transactions."""
    connect_timeout: float = 10.0
    """How long one try to connect to PostgreSQL may take; 0.1 to 600 s."""
    statement_timeout: float = 10.0
    """How long one statement of the library's may take; 0.1 to 600 s. For those of the runner it is a third of `lease`
    at most; a body of more than 4 MiB has four times as long."""
    notifications: bool = True
    """Whether to use LISTEN and NOTIFY. Without them only polling wakes."""
    listen_dsn: str | Callable[[], str | Awaitable[str]] | None = field(default=None, repr=False)
    """A way past a transaction pooler, to the same database, for the one connection that listens. None: it goes by
    `dsn`, unless that leads to a transaction pooler; then only polling wakes. A callable, as for `dsn`, is asked
    for each connection."""
    keep_succeeded: float | None = 86_400.0
    """How long succeeded jobs and their responses are kept: from a minute, for callers that wait for them, to ten
    years. None keeps them until they are cleared."""
    keep_dead: float | None = None
    """How long dead jobs are kept, up to ten years. None keeps them until they are cleared."""

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "attempt_timeout": (0.001, 86_400.0),
            "max_request_body": (0, 256 * _MIB),
            "max_response_body": (0, 64 * _MIB),
            "keep_response": (0, 64 * _MIB),
            "excerpt": (0, _MIB),
            "max_redirects": (0, 20),
            "max_running": (1, 100_000),
            "pool_size": (2, 100),
            "connect_timeout": (0.1, 600.0),
            "statement_timeout": (0.1, 600.0),
            "keep_succeeded": (60.0, checks.MAX_SECONDS),
            "keep_dead": (0.0, checks.MAX_SECONDS),
        }
        if not isinstance(self.notifications, bool):
            raise InvalidRequest("notifications", f"must be a bool, not {type(self.notifications).__name__}")
        if self.listen_dsn is not None:
            if not callable(self.listen_dsn):
                dsn = HiddenText(exact_text(self.listen_dsn)) if isinstance(self.listen_dsn, str) else self.listen_dsn
                check_dsn("listen_dsn", dsn, "must be a PostgreSQL URL or a connection string of libpq")
                object.__setattr__(self, "listen_dsn", dsn)
            if not self.notifications:
                raise InvalidRequest("listen_dsn", "is of no use with notifications=False")
        # A frozen dataclass has to set its fields this way.
        object.__setattr__(self, "sensitive", _names("sensitive", self.sensitive))
        object.__setattr__(self, "redirect_bodies_to", _origins("redirect_bodies_to", self.redirect_bodies_to))
        for name, default in ((each.name, each.default) for each in fields(self) if each.name in limits):
            value = getattr(self, name)
            if value is None and name in _FOR_EVER:
                continue
            least, most = limits[name]
            if isinstance(default, int):
                value = checks.whole_number(name, value, int(least), int(most))
            else:
                value = checks.number(name, value, least, most)
            object.__setattr__(self, name, value)


def _names(argument: str, values: Collection[str]) -> frozenset[str]:
    if (
        isinstance(values, str)
        or not isinstance(values, Collection)
        or not all(isinstance(each, str) for each in values)
    ):
        raise InvalidRequest(argument, f"must be a collection of str, not {shown(values)}")
    return frozenset(exact_text(value).lower() for value in values)


def _origins(argument: str, values: Collection[str]) -> frozenset[str]:
    try:
        return frozenset(origin_of(checked_url(value).url) for value in _names(argument, values))
    except InvalidRequest as error:
        raise InvalidRequest(
            argument, f"must be a collection of origins such as https://api.example.com: {error}"
        ) from error


def check_dsn(argument: str, dsn: object, problem: str) -> None:
    """Raise unless libpq understands it, with the reason. The text is not repeated: it may have a password in it."""
    if not isinstance(dsn, str):
        raise InvalidRequest(argument, f"{problem}, not {kind_of(dsn)}")
    if (reason := problem_of(dsn)) is not None:
        raise InvalidRequest(argument, f"{problem}; {reason}")
