"""The room that sends: one request goes out, one `Delivery` comes back. It knows nothing of queues, jobs or databases.

In the order in which a request meets them:

1. `sender.py` is the door: `Sender.send` follows redirects and reads the body, under limits that are this library's
   own, whatever it sends with. What goes wrong becomes a `Delivery`; nothing but a cancellation is raised.
2. `exchanges.py` has the ways to send one message: past httpx2 with the library's own transport, or with a transport
   or client of the caller's, whose bodies `foreign_bodies.py` reads.
3. `transport.py` is `TrioTransport`: one exchange over a connection that is kept, and httpx2's interface to it.
4. `net/` opens and keeps connections; `wire/` makes bytes of a request, and an answer of bytes.
5. `turns.py` shares out the processor among all answers that are read, `held_bodies.py` the memory.
6. `redirects.py` decides where a redirect leads, and what may go along.
7. `progress.py` knows how far the attempt has come, wherever it was cut short; `trace.py` has the names that httpcore
   gives to these steps, and `error_texts.py` puts an error into one line without secrets.

Imports point down only, and are checked: `sender`, `exchanges`, `transport`, `net`, `turns`, `wire`.
"""
