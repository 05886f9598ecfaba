"""What happens in an open queue, as values, and those that take them. Who emits has no part in what becomes of it.

- `event` is what every event is, `events` has all kinds of them.
- `emitter` gives each to those that take events, and waits for none: `log`, and one `stream` for each subscriber.
- `loop_lag` measures what no other part would notice: how late the event loop is.
"""
