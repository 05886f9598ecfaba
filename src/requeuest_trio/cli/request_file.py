"""Reading requests from JSON lines. Pure: nothing is stored or sent here, and every line is checked before any is."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from requeuest_trio import Config, InvalidRequest, Request, checks

__all__ = ["FIELDS", "BadLines", "Entry", "read_requests"]

FIELDS = (
    "method", "url", "headers", "json", "body", "body_base64", "channel", "ordering_key", "accept", "timeout",
    "follow_redirects",
)  # fmt: skip

_MAKERS: Mapping[str, Callable[..., Request]] = {
    "GET": Request.get,
    "HEAD": Request.head,
    "OPTIONS": Request.options,
    "DELETE": Request.delete,
    "POST": Request.post,
    "PUT": Request.put,
    "PATCH": Request.patch,
}
_STATUS_CLASS = re.compile(r"([1-5])xx", re.IGNORECASE)
_STATUS_RANGE = re.compile(r"(\d{3})-(\d{3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file."""

    line: int
    """1 for the first."""
    channel: str
    ordering_key: str | None
    request: Request


class BadLines(Exception):
    """Some lines can't be read as requests; `problems` has their numbers, and what is wrong with each."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__(f"{len(problems)} bad line(s), the first is {problems[0][0]}: {problems[0][1]}")
        self.problems = problems


def read_requests(lines: Iterable[bytes], *, channel: str = "default", max_body: int | None = None) -> list[Entry]:
    """Read requests, one JSON object a line; empty lines are skipped.

    Args:
        lines: as they are in the file, in UTF-8.
        channel: for lines that name none.
        max_body: bytes; a larger body is refused. None is the limit of `Config`.

    Raises:
        BadLines: some are wrong. All lines have been looked at.
    """
    limit = Config().max_request_body if max_body is None else max_body
    entries: list[Entry] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        # Some editors mark the beginning of a file.
        written = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not written.strip():
            continue
        try:
            entries.append(_entry(number, _object(written.rstrip()), channel, limit))
        except ValueError as error:
            # An InvalidRequest is one, too.
            problems.append((number, str(error)))
    if problems:
        raise BadLines(problems)
    return entries


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"is no UTF-8 text: {error.reason} at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError('must be a JSON object, such as {"method": "GET", "url": "https://example.com/"}')
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python would keep the last one, and so send something else than what the file says.
    unique = dict(pairs)
    if len(unique) < len(pairs):
        [(repeated, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{repeated!r} is there twice in one object (repeated headers go into a list of pairs)")
    return unique


def _refuse_constant(name: str) -> None:
    raise ValueError(f"is no JSON: {name}")


def _entry(number: int, fields: dict[str, Any], default_channel: str, max_body: int) -> Entry:
    if unknown := [name for name in fields if name not in FIELDS]:
        raise ValueError(f"unknown field {unknown[0]!r}; there are {', '.join(FIELDS)}")
    if missing := [name for name in ("method", "url") if name not in fields]:
        raise ValueError(f"{missing[0]}: is missing")
    key = fields.get("ordering_key")
    return Entry(
        line=number,
        channel=checks.channel_name(fields.get("channel", default_channel)),
        ordering_key=None if key is None else checks.ordering_key(key),
        request=_request(fields, max_body),
    )


def _request(fields: dict[str, Any], max_body: int) -> Request:
    method = fields["method"]
    make = _MAKERS.get(method.upper()) if isinstance(method, str) else None
    if make is None:
        raise InvalidRequest("method", f"must be one of {', '.join(_MAKERS)}, not {method!r}")
    options = _body(fields)
    if "headers" in fields:
        options["headers"] = _headers(fields["headers"])
    if "accept" in fields:
        options["accept"] = _accept(fields["accept"])
    for name in ("timeout", "follow_redirects"):
        if name in fields:
            options[name] = fields[name]
    request = make(fields["url"], **options)
    if len(request.body) > max_body:
        raise InvalidRequest("body", f"must have at most {max_body:,} bytes, not {len(request.body):,}")
    return request


def _body(fields: dict[str, Any]) -> dict[str, Any]:
    given = [name for name in ("json", "body", "body_base64") if name in fields]
    if len(given) > 1:
        raise InvalidRequest(given[1], f"is given together with {given[0]}: a request has one body")
    if not given:
        return {}
    [name] = given
    if fields[name] is None:
        # To a program null may be a body or none.
        raise InvalidRequest(name, 'must not be null: leave it out for no body; for JSON\'s null, write "body": "null"')
    if name == "json":
        return {"json": fields["json"]}
    if not isinstance(fields[name], str):
        raise InvalidRequest(name, f"must be a text, not {json.dumps(fields[name])}"[:200])
    try:
        if name == "body":
            return {"content": fields["body"].encode()}
        return {"content": base64.b64decode(fields["body_base64"], validate=True)}
    except UnicodeEncodeError as error:
        raise InvalidRequest("body", "must not have lone surrogates") from error
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("body_base64", f"is no base64: {error}") from error


def _headers(value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return [(name, field) for name, field in value]
    raise InvalidRequest("headers", 'must be an object, or a list of pairs such as [["X-Tag", "a"], ["X-Tag", "b"]]')


def _accept(value: object) -> list[int | range]:
    return [_statuses(part) for part in (value if isinstance(value, list) else [value])]


def _statuses(part: object) -> int | range:
    if isinstance(part, int) and not isinstance(part, bool):
        return part
    if isinstance(part, str):
        if match := _STATUS_CLASS.fullmatch(part):
            return range(int(match[1]) * 100, int(match[1]) * 100 + 100)
        if match := _STATUS_RANGE.fullmatch(part):
            return range(int(match[1]), int(match[2]) + 1)
    raise InvalidRequest("accept", f'must have statuses such as 204, "2xx" or "200-204", not {part!r}')
