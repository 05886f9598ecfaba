"""What `json=`, `form=`, `content=` and `params=` become."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

from requeuest_trio._model.errors import InvalidRequest, shown
from requeuest_trio._model.exact import exact_bytes, exact_number, exact_text

__all__ = ["Fields", "Parameter", "checked_body", "content_body", "form_encoded", "json_body"]

Parameter = str | int | float | bool | None
"""What a field of a form or a query may be: True is "true", None is empty."""
Fields = Mapping[str, Parameter | Sequence[Parameter]] | Sequence[tuple[str, Parameter | Sequence[Parameter]]]


def json_body(value: Any) -> bytes:
    """The value as JSON in UTF-8, without spaces. NaN and infinity are not in the standard (RFC 8259 section 6)."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            "json", f"can't be written as JSON: {error}; convert that first, or give JSON of your own as content="
        ) from error


def content_body(value: object) -> bytes:
    """Text as UTF-8, bytes as they are."""
    if not isinstance(value, str):
        return checked_body("content", value)
    try:
        return exact_text(value).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("content", f"can't be written as UTF-8: {error.reason}") from error


def checked_body(argument: str, body: object) -> bytes:
    """A body that is in memory."""
    if type(body) is bytes:
        return body
    if isinstance(body, bytes | bytearray | memoryview):
        return exact_bytes(body)
    if isinstance(body, Iterable | AsyncIterable) and not isinstance(body, str | Mapping):
        raise InvalidRequest(argument, "must be bytes in memory: a stream can't be stored and sent again")
    raise InvalidRequest(argument, f"must be bytes, not {type(body).__name__}")


def form_encoded(argument: str, fields: object) -> str:
    """Fields as `application/x-www-form-urlencoded`, in their order; a sequence of values repeats its field."""
    items = fields.items() if isinstance(fields, Mapping) else fields
    if isinstance(items, str | bytes | bytearray) or not isinstance(items, Iterable):
        raise InvalidRequest(argument, f"must be a mapping or pairs of name and value, not {type(fields).__name__}")
    return "&".join(part for item in items for part in _field(argument, item))


def _field(argument: str, item: object) -> list[str]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InvalidRequest(argument, f"must be a mapping or pairs of name and value, not {type(item).__name__}")
    name, value = item
    if not isinstance(name, str):
        raise InvalidRequest(argument, f"names must be str, not {type(name).__name__}")
    values = value if isinstance(value, list | tuple) else [value]
    try:
        return [f"{quote_plus(exact_text(name))}={quote_plus(_text(argument, name, one))}" for one in values]
    except InvalidRequest:
        raise
    except ValueError as error:
        # A lone surrogate, or an int of more digits than Python writes.
        raise InvalidRequest(
            argument, "must be text that UTF-8 can write, or numbers of at most 4,300 digits"
        ) from error


def _text(argument: str, name: str, value: object) -> str:
    match value:
        case str():
            return exact_text(value)
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(exact_number(value))
        case _:
            raise InvalidRequest(
                argument,
                f"the value of {shown(name)} must be str, int, float, bool or None, not {type(value).__name__}",
            )
