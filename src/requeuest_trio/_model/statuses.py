"""Sets of HTTP status codes, as users write them and as they are stored."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from requeuest_trio._model.errors import InvalidRequest, shown
from requeuest_trio._model.exact import exact_int

__all__ = ["SUCCESS", "StatusClass", "StatusSpec", "Statuses", "contains", "statuses"]


class StatusClass(Enum):
    """The five classes of status codes (RFC 9110 section 15)."""

    INFORMATIONAL = range(100, 200)
    SUCCESS = range(200, 300)
    REDIRECTION = range(300, 400)
    CLIENT_ERROR = range(400, 500)
    SERVER_ERROR = range(500, 600)


StatusSpec = int | range | StatusClass
Statuses = tuple[range, ...]
"""Normal form: sorted, merged, without gaps of zero; so that equal sets are equal values."""

SUCCESS: Statuses = (StatusClass.SUCCESS.value,)
_LOWEST, _HIGHEST = 100, 599


def statuses(argument: str, spec: StatusSpec | Iterable[StatusSpec]) -> Statuses:
    """Bring one or several of `int`, `range` and `StatusClass` to normal form.

    Raises `InvalidRequest`, naming `argument`, for other types, ranges with a step, and codes outside 100 to 599.
    """
    if spec is SUCCESS:
        return SUCCESS
    items = [spec] if isinstance(spec, int | range | StatusClass) else spec
    if isinstance(items, str | bytes | bytearray) or not isinstance(items, Iterable):
        raise InvalidRequest(argument, f"must be status codes, ranges or StatusClass members, not {shown(spec)}")
    merged: list[range] = []
    for part in sorted((_as_range(argument, item) for item in items), key=lambda part: part.start):
        if merged and part.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, part.stop))
        elif part:
            merged.append(part)
    return tuple(merged)


def _as_range(argument: str, item: object) -> range:
    if isinstance(item, StatusClass):
        return item.value
    if isinstance(item, int) and not isinstance(item, bool):
        item = range(exact_int(item), exact_int(item) + 1)
    if not isinstance(item, range) or exact_int(item.step) != 1:
        raise InvalidRequest(
            argument, f"must be status codes, ranges of step 1 or StatusClass members, not {shown(item)}"
        )
    item = range(exact_int(item.start), exact_int(item.stop))
    if item and (item.start < _LOWEST or item.stop > _HIGHEST + 1):
        raise InvalidRequest(argument, f"status codes lie between {_LOWEST} and {_HIGHEST}, not {shown(item)}")
    return item


def contains(ranges: Statuses, status: int) -> bool:
    """Whether `status` is one of them."""
    for part in ranges:  # noqa: SIM110 - as any() it would take three times as long, for each attempt
        if status in part:
            return True
    return False
