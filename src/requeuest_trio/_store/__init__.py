"""All SQL, and what PostgreSQL's errors mean. It knows nothing of tasks, slots and leases, nor when it is called.

- `store` is the door: one method is one operation over one `database`. They stand in a file for each step of a job:
  `new_jobs`, `claimed`, `outcomes`, `maintaining`, `reading`; what they share is in `statements` and `ordering_keys`.
- `queries` reads the statements, `columns` lists the columns of a job and makes parameters of new ones, `parsing` reads
  rows, which may be foreign.
- `waits` says when channels have something due, `notifications` over which topics that is announced.
- `failures` says what an error means, `remedies` and `rights` what to do about it.
- `opening`, `pooler` and `migrate` come before all of that: what there is at the other end, and bringing it up to date.
"""
