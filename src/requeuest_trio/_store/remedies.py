"""What to do about a database that lets nobody in, by the words of libpq and of the server.

libpq tells no SQLSTATE of a connection that could not be made, so that its words are all there is. A server that speaks
another language has its reason shown, without a remedy.
"""

from __future__ import annotations

import re

from requeuest_trio._postgres import ELSEWHERE

__all__ = ["remedy_for", "with_remedy"]

_REMEDIES = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        (
            r"password authentication failed",
            "give a user and password that the server has, in the connection string, in PGPASSWORD or in ~/.pgpass",
        ),
        (
            r"no password supplied",
            "put it into PGPASSWORD or ~/.pgpass; such a file must have a line for this server and user, and mode 600",
        ),
        (r'role ".*" (?:does not exist|is not permitted to log in)', "create the role on the server, with LOGIN"),
        (r'database ".*" does not exist', "create the database on the server, or name another"),
        (
            r"no pg_hba\.conf entry.*no encryption",
            "write sslmode=require, if TLS is wanted; or permit this user, database and address in pg_hba.conf there",
        ),
        (
            r"no pg_hba\.conf entry|pg_hba\.conf rejects",
            "permit this user, database and address in pg_hba.conf on the server, or name others",
        ),
        (
            r"server does not support SSL",
            "turn it on there (ssl = on); or write sslmode=disable, where nobody can listen on the way",
        ),
        (
            r"certificate verify failed",
            "let sslrootcert name a file with the certificate of the authority that has signed the server's",
        ),
        (
            r"root certificate file",
            "let sslrootcert name a file of certificates that this user can read, or write sslrootcert=system",
        ),
        (
            r"server certificate for .* does not match host name",
            "name the host as its certificate does, or give the server a certificate for this name",
        ),
        (r"private key file", "let sslkey name the key of sslcert, in a file of mode 600"),
        (r"failed to resolve host", "see to the name of the host, and to this machine's DNS"),
        (r"Connection refused", "see whether the server runs, and listens at this host and port"),
        (r"on socket .* No such file or directory", "see whether the server runs, and name its directory or a host"),
        (
            r"timeout expired|no connection within connect_timeout",
            "see whether host and port are right, and what is on the way there",
        ),
    )
)


def remedy_for(reason: str) -> str:
    """What to do, with a semicolon before it, or "" if it is not known. Of several hosts, for the one told first."""
    first = reason.partition(ELSEWHERE)[0]
    return next((f"; {remedy}" for pattern, remedy in _REMEDIES if pattern.search(first)), "")


def with_remedy(reason: str) -> str:
    """The reason with what to do about it, which stands before what is wrong with other hosts."""
    first, elsewhere, others = reason.partition(ELSEWHERE)
    return f"{first}{remedy_for(first)}{elsewhere}{others}"
