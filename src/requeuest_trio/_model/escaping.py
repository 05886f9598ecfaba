"""Text in one line that can steer nothing: what is logged or shown may come from rows of other programs."""

from __future__ import annotations

__all__ = ["cut", "escaped"]

_CUT = "..."


def escaped(text: str) -> str:
    """The text, with line ends, escape sequences and whatever else changes how a line looks written out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def cut(text: str, longest: int) -> str:
    """The text, or its beginning with a mark that there was more."""
    return text if len(text) <= longest else text[:longest] + _CUT
