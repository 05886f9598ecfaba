"""Values, and decisions about them: no I/O and no task, so that each can be tried by itself.

- What is sent and kept: `request` (with `headers`, `bodies`, `urls`, `statuses`, `charsets`, `tokens`), `job`, `ids`,
  and what tells requests apart: `channel`, `origin`.
- What is decided: `outcome` judges an attempt, `retry` says when the next is due, `states` is the table of a job's
  states. `backoff` is for what the library itself tries again.
- What every room has in common: `errors` is the tree of what is raised, `checks` refuses arguments, `exact` takes
  plain values out of subclasses, `groups` lets an exception out of a nursery as it was raised; `masking`, `escaping`
  and `frames` keep secrets and foreign text out of what is shown; `dsn` reads connection strings, and `ecosystem` has
  the names of httpx2.
"""
