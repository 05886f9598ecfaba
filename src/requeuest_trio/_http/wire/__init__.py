"""Bytes: HTTP/1.1 as it goes over a connection, both ways. Pure: no I/O, no clock, no Trio, so that each rule can be
tested with a few bytes. What comes is foreign, and bounded in all that it can make long: lines, fields, chunks, work.

A request, on its way out:

1. `message.py` makes the head: whom to ask, request line, fields. `codings.py` says which codings may be asked for.
2. `bodies.py` frames a body that comes in pieces.

Its answer, on its way in:

3. `answer.py` takes the bytes as they come, and tells when the head is there and when the body has ended.
4. `heads.py` reads a head: by the grammar, line by line from caches, or else as far as it can't be misunderstood.
5. `framing.py` decides where the body ends, and whether the connection can be used again; `chunks.py` undoes chunks.
6. `decoding.py` undoes compression, never more of it than was asked for.

Bytes that break the rules raise `ValueError` (`AnswerParser` keeps it as its `problem`); a request that can't be sent
as it stands raises httpx2's `LocalProtocolError`.
"""
