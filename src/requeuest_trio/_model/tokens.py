"""Tokens: what the names of methods and fields are made of (RFC 9110 section 5.6.2)."""

from __future__ import annotations

import string
from typing import Final

__all__ = ["SIGNS", "is_token"]

SIGNS: Final = "!#$%&'*+-.^_`|~"
"""What may stand in one beside letters and digits."""
_TOKEN: Final = (SIGNS + string.digits + string.ascii_letters).encode()


def is_token(name: bytes) -> bool:
    """Whether this is one."""
    return bool(name) and not name.translate(None, _TOKEN)
