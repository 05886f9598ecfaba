"""Connection strings: what is wrong with one, said without repeating it, since there may be a password in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from shlex import quote
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

__all__ = ["HiddenText", "masked_dsn", "option_for", "problem_of"]

_SCHEMES = ("postgresql://", "postgres://")
_DRIVER = re.compile(r"postgres(?:ql)?(\+[a-z0-9_]{1,40})://")
_OTHER_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://")
_PARAMETER = re.compile(r"[a-z_]{1,40}")
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PORTS = re.compile(r"\d{0,5}(?:,\d{0,5})*")
_NUMBER = re.compile(r"\s*[+-]?\d{1,9}\s*")
_ENCODE = "percent-encode what stands in user and password: @ as %40, / as %2F, : as %3A, % as %25"

_PAIRS = "write name=value pairs, a value with spaces in single quotes, or a URL"
_EMBEDDED = "for a PostgreSQL of the library's own, write embedded: with the colon, or embedded:/path"

_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_PROTOCOL_VERSIONS = ("3.0", "3.2", "latest")
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "sslcertmode": ("disable", "allow", "require"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "gssencmode": ("disable", "prefer", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
    "min_protocol_version": _PROTOCOL_VERSIONS,
    "max_protocol_version": _PROTOCOL_VERSIONS,
    "replication": ("true", "on", "yes", "1", "database", "false", "off", "no", "0"),
}
_METHODS = ("password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none")
_NUMBERS = (
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip


class HiddenText(str):
    """A text whose `repr` hides it: what shows the locals of a traceback shows that."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def problem_of(dsn: str) -> str | None:
    """Why libpq would not understand a connection string, or not as it was meant, and what to do. None: it is fine."""
    if (problem := _problem_of_text(dsn)) is not None:
        return problem
    if dsn.startswith(_SCHEMES) and (problem := _problem_of_url(dsn)) is not None:
        return problem
    try:
        parts = conninfo_to_dict(dsn)
    except Exception:  # its text repeats the connection string
        remedy = _ENCODE if dsn.startswith(_SCHEMES) else _EMBEDDED if dsn.startswith("emb") else _PAIRS
        return f"libpq does not understand it: {remedy}"
    if not _PORTS.fullmatch(str(parts.get("port", ""))):
        return f"the port must be a number; if it is not meant for one: {_ENCODE}"
    return _problem_of_values(parts)


def option_for(dsn: str) -> tuple[str, str]:
    """The option of a command to paste, with a space before it, and where what it must not show has to be put.

    A password is left out, since others of the machine see commands, and libpq asks for it elsewhere. If there is
    another secret, or the text can't be read, so that nobody knows what in it is one, all of it is left out.
    """
    shown = masked_dsn(dsn)
    if shown is None:
        return "", "with the connection string in REQUEUEST_DSN"
    return f" --dsn {quote(shown)}", "" if shown == dsn else "with its password in PGPASSWORD or in a password file"


def masked_dsn(dsn: str) -> str | None:
    """The connection string without its password. None: something else in it is secret, or it can't be read."""
    if problem_of(dsn) is not None:
        return None
    parts = conninfo_to_dict(dsn)
    kept = {name: value for name, value in parts.items() if name != "password"}
    if kept.keys() & _secrets():
        return None
    return dsn if kept == parts else make_conninfo("", **kept)


@lru_cache(maxsize=1)
def _secrets() -> frozenset[str]:
    """libpq's parameters that are not for the screen, by what it says itself; of one it does not say so."""
    # "*" is for passwords, and "D" for what is there for debugging and has keys.
    hidden = {option.keyword.decode() for option in Conninfo.get_defaults() if option.dispchar in {b"*", b"D"}}
    return frozenset({*hidden, "oauth_client_secret"})


def _problem_of_text(dsn: str) -> str | None:
    if dsn[:1] in {"'", '"'} or (dsn[-1:] in {"'", '"'} and "://" in dsn):
        return "remove the quotes around it"
    if dsn != dsn.strip() and "://" in dsn:
        return "remove the white space around it"
    if "\0" in dsn or any("\ud800" <= char <= "\udfff" for char in dsn):
        return "it must not have NUL or lone surrogate characters"
    if driver := _DRIVER.match(dsn):
        return f"remove {driver[1]}: it names a driver of SQLAlchemy, and libpq wants postgresql://"
    if not dsn.startswith(_SCHEMES) and _OTHER_SCHEME.match(dsn):
        return "a URL must begin with postgresql:// or postgres://"
    return None


def _problem_of_url(dsn: str) -> str | None:
    before, _, parameters = dsn.partition("://")[2].partition("?")
    path = before.partition("/")[2]
    if before.count("@") > 1 or "@" in path:
        return f"there is an @ or / too many: {_ENCODE}"
    if _ESCAPES.search(dsn):
        return "a % in it is not followed by two hexadecimal digits: write % itself as %25"
    if any(char.isspace() for char in before):
        return "it has white space: write a space as %20"
    return _problem_of_parameters(parameters)


def _problem_of_parameters(parameters: str) -> str | None:
    if "@" in parameters.partition("=")[0]:
        return f"there is a ? in user or password: {_ENCODE}, ? as %3F"
    for parameter in parameters.split("&") if parameters else ():
        name, equals, _ = parameter.partition("=")
        if not equals:
            return "a parameter in it has no value: write name=value after the ?, and & between two"
        if name == "ssl" and parameter != "ssl=true":
            return "libpq has no parameter ssl: write sslmode=require, or another mode of libpq's"
        if _PARAMETER.fullmatch(name) and not _is_known(name):
            if "@" in parameters:  # so that the name may be a part of a password
                return f"there is a ? in user or password: {_ENCODE}, ? as %3F; or libpq has no such parameter"
            return f"libpq has no parameter {name}: remove it"
    return None


def _problem_of_values(parts: Mapping[str, Any]) -> str | None:
    """libpq looks at these only when it connects, and then its error repeats them."""
    for name, values in _CHOICES.items():
        if parts.get(name) and parts[name] not in values:
            return f"{name} must be one of {', '.join(values)}"
    methods = str(parts.get("require_auth") or "none").split(",")
    if not {method.removeprefix("!") for method in methods} <= {*_METHODS}:
        return f"require_auth must have some of {', '.join(_METHODS)}, with commas between them"
    for name in _NUMBERS:
        if parts.get(name) and not _NUMBER.fullmatch(str(parts[name])):
            return f"{name} must be a whole number"
    return None


@lru_cache(maxsize=256)
def _is_known(name: str) -> bool:
    if name in {"ssl", "user", "password", "host", "port", "dbname"}:
        return True
    try:
        conninfo_to_dict(f"postgresql://h/?{name}=1")
    except Exception:
        return False
    return True
