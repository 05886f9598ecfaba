"""Hiding credentials in what people are shown: URLs, header fields, and connection strings.

The command shows jobs so, and pages of your own can. It errs on the side of hiding: a harmless value that looks like a
credential is hidden too. `repr` and the log mask by themselves, and hide more.
"""

from __future__ import annotations

from collections.abc import Collection

from requeuest_trio._model import dsn as connection_strings
from requeuest_trio._model import headers as header_fields
from requeuest_trio._model import masking

__all__ = ["masked_dsn", "masked_headers", "masked_url"]


def masked_url(text: str, sensitive: Collection[str] = ()) -> str:
    """Hide what looks like a credential in a URL, or in a text that quotes URLs, such as `Job.error`.

    Args:
        text: of any length and origin.
        sensitive: names of parameters, in lower case, whose values are hidden as well; see `Config.sensitive`.

    Returns:
        The same with `***` for users, passwords, and what looks secret in parameters and paths.
    """
    return masking.masked_url(text, sensitive)


def masked_headers(
    headers: tuple[tuple[str, str], ...], sensitive: Collection[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Hide the values of header fields that look like credentials, and credentials in URLs in the others.

    Args:
        headers: pairs of name and value, as `Request.headers` has them.
        sensitive: names of fields, in lower case, whose values are hidden as well; see `Config.sensitive`.

    Returns:
        The same pairs, with `***` for what is hidden.
    """
    return header_fields.masked(headers, sensitive)


def masked_dsn(dsn: str) -> str | None:
    """Leave the password out of a connection string, so that it can be shown, or stand in a command.

    Args:
        dsn: a connection string or URL of libpq's.

    Returns:
        The rest, with which libpq takes the password from `PGPASSWORD` or a password file; the same text, if it has no
        password. None if something else in it is secret, or libpq would not understand it.
    """
    return connection_strings.masked_dsn(dsn)
