"""Connections: opened, kept for the next request, and closed without waiting. This room knows bytes and sockets, and of
HTTP what `wire/` makes of it; it knows neither redirects nor limits of an attempt, and nothing of httpx2.

In the order in which a request meets them:

1. `pool.py` lends an idle connection, or says when a new one may be opened: so many for each origin and in all.
2. `connector.py` opens one, step by step: `resolver.py` looks the name up, in threads that `lookup_threads.py` shares
   out; `race.py` connects to the first address that answers; `tls.py` shakes hands.
3. `streams.py` says what a connection reads and writes, and is that for a plain socket; `tls.py` is it for TLS.
4. `connection.py` sends one request and reads its answer, then the next.
5. `timeouts.py` has the limits that httpx2 sets for each kind of waiting. The deadline of a whole attempt is the
   caller's, by cancellation.
6. `shortages.py` tells a failure of this machine (descriptors, memory, threads, ports) from one of the receiver.

What fails raises httpx2's errors. A cancelled task leaves nothing open.
"""
