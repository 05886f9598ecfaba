"""Values of subclasses as values of the plain types: what is kept is what a value is, not how it shows itself.

A member of `class Name(str, Enum)` is a `str`, and yet formatting gives `Name.member`; a subclass of `bytes` may have
another length than its bytes. So whatever is kept of an argument goes through these, or is made anew anyway.
"""

from __future__ import annotations

__all__ = ["exact_bytes", "exact_int", "exact_number", "exact_text"]


def exact_text(value: str) -> str:
    """The characters of a `str`."""
    return value if type(value) is str else str.__str__(value)


def exact_bytes(value: bytes | bytearray | memoryview) -> bytes:
    """The bytes in memory."""
    return value if type(value) is bytes else bytes(memoryview(value))


def exact_int(value: int) -> int:
    """The number that an `int` is."""
    return value if type(value) is int else int.__int__(value)


def exact_number(value: float) -> float:
    """The number that an `int` or a `float` is."""
    return float.__float__(value) if isinstance(value, float) else exact_int(value)
