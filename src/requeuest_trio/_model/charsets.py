"""The encoding of a text that a receiver has sent. Pure."""

from __future__ import annotations

import codecs
import re
from encodings.aliases import aliases
from functools import lru_cache
from typing import Final

__all__ = ["encoding_of"]

_DEFAULT: Final = "utf-8"
_CHARSET: Final = re.compile(r';[ \t]*charset="?([\w.:+-]{1,40})', re.IGNORECASE | re.ASCII)
_LONGEST: Final = 1_000
"""Characters of `Content-Type` that are read."""
_BOMS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Those of the WHATWG's Encoding Standard, and others of its kinds. Python has codecs under such names that give no text
# (zlib, rot13), raise whatever they like (idna, undefined), or take the square of the length (punycode).
_TEXTS: Final = frozenset(
    {
        "ascii",
        "utf_8",
        "utf_8_sig",
        "utf_16",
        "utf_16_le",
        "utf_16_be",
        "latin_1",
        "iso8859_2",
        "iso8859_3",
        "iso8859_4",
        "iso8859_5",
        "iso8859_6",
        "iso8859_7",
        "iso8859_8",
        "iso8859_9",
        "iso8859_10",
        "iso8859_11",
        "iso8859_13",
        "iso8859_14",
        "iso8859_15",
        "iso8859_16",
        "cp437",
        "cp850",
        "cp852",
        "cp855",
        "cp866",
        "cp874",
        "cp1250",
        "cp1251",
        "cp1252",
        "cp1253",
        "cp1254",
        "cp1255",
        "cp1256",
        "cp1257",
        "cp1258",
        "koi8_r",
        "koi8_u",
        "mac_roman",
        "mac_cyrillic",
        "gb2312",
        "gbk",
        "gb18030",
        "big5",
        "big5hkscs",
        "euc_jp",
        "euc_kr",
        "iso2022_jp",
        "iso2022_kr",
        "shift_jis",
        "cp932",
        "cp949",
        "cp950",
        "johab",
    }
)


def encoding_of(content_type: str, body: bytes) -> str:
    """The name of the codec for a body with this `Content-Type`; UTF-8 if that says nothing, or nothing usable."""
    encoding = _named(content_type) if len(content_type) <= _LONGEST else _named.__wrapped__(content_type[:_LONGEST])
    if encoding == "utf_16" and not body.startswith(_BOMS):
        return "utf_16_le"  # without a mark Python refuses it; this is what browsers take it for
    return encoding


@lru_cache(maxsize=256)
def _named(content_type: str) -> str:
    found = _CHARSET.search(content_type)
    if found is None:
        return _DEFAULT
    # Not by `codecs.lookup`, which tries to import a module for each name that it does not know.
    label = re.sub("[^a-z0-9]+", "_", found[1].lower()).strip("_")
    name = aliases.get(label, label)
    return name if name in _TEXTS else _DEFAULT
