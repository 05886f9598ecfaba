"""The engine: what delivers the jobs of a queue from one process. It takes ten minutes to read this.

How a request comes here, and where it goes on, is in `docs/architecture.md`: these tasks are steps 3 to 6, 9 and 10.

# The tasks, in the order in which a request meets them

Everything that runs is a task in the nursery of one `open_requeuest`, started by `runner.py` (the group commit and the
announcer, which come before, are started beside it). None of them calls upwards: each knows only what was built before
it (`_wiring.py`).

1. `listener.py` hears what other processes announce. A table of topics says how each is read (`notification.py`), and
   who is told. What this process stores itself comes as a wake-up without it.
2. `wake_ups.py` is where all wake-ups come in. They are hints: one may be lost, come twice, or be invented.
3. `dispatcher.py` is the one loop that claims. Each of its steps asks the pure parts and does one thing:
   `readiness.py` (which channels are ready, who is next), `slots.py` (how many jobs), `claims.py` (the claim, and what
   makes it safe; `caution.py` after a row that can't be read). `short_cut.py` is the way past it for a lone job that is
   spawned here: it is stored as claimed already.
4. `channel_workers.py` hands the jobs to one `channel_worker.py` a channel. A worker has so many slots, each a task
   while there is work; a slot has one attempt at a time, in a cancel scope of its own. `shortages.py` says how much
   less a channel may have while this machine lacks something.
5. `attempt.py` is one attempt as its steps: open, send, judge, report. `large_bodies.py` reads what the claim left out;
   `origin_health.py` says when a receiver begins to fail.
6. `recorder.py` writes outcomes in batches, fenced by claim; `outcome_backlog.py` is what is still unwritten.
   `after_recording.py` wakes the callers and channels that this concerns.

Beside them, and not on a request's way: `heartbeat.py` renews the lease (`lease.py`, measured on the clock of
`clocks.py`), and `maintenance.py` rescues, repairs and prunes (`signs_of_life.py` says which processes are lost).

# The states of a job

The table is `_model/states.py`; constraints of the database repeat it. "Scheduled" and "retrying" are no states: such a
job is `available` with a later `due_at`.

`blocked`
    In: spawn, behind an unfinished job of its ordering key.
    Out: the record, clear or condemnation of the job before it makes it `available`. Condemned itself, it is `dead`.
    Who cleans up: maintenance frees one that stands behind no unfinished job, looking at some of the keys each round.

`available`
    In: spawn; unblocked; record of an attempt that is to be made again; release (uncounted); rescue (counted).
    Out: claim makes it `running`. Condemned, because it can't be read, it is `dead`.
    Who cleans up: there is nothing to. It waits until it is due, and the poll of any process finds it then.

`running`
    In: claim, or a lone spawn by the short cut, which is a variant of it.
    Out: record makes it `succeeded`, `dead` or `available`; release and rescue make it `available`.
    Who cleans up: its process, when its block ends; else any other, one lease after that process's last sign of life.

`succeeded` and `dead`
    In: record, of an accepted status; or of a last attempt, a status of `give_up_on` or a damaged row.
    Out: none.
    Who cleans up: maintenance prunes after `Config.keep_succeeded` and `Config.keep_dead`; `clear` removes any.

`held` and `cancelled` are in the table, and nothing leads to them yet. Everything that leaves `running` is fenced: it
counts only for the claim, which is the job's id and a random token, under which the job is held at that moment.

# What may fail, what then holds, who repairs it

**A wake-up is lost, or a listener is deaf.** The poll finds everything within `poll_interval`. The listener asks every
few seconds whether it is still heard, and looks at everything after each new connection.

**The answer to a claim is lost.** The jobs are `running` under a claim that this process never saw. `claims.py` notes
that it may hold something unknown, asks which claims it holds before the next claim, and releases those that none of
its parts knows. A claim may be carried out even later, so maintenance asks again in each round.

**The answer to a record is lost.** It is written again, and is stale then: the claim is not current any more. The
outcome was written once. What the first may have unblocked is looked at again.

**PostgreSQL forgets what it had confirmed** (a failover, asynchronous commit). The jobs are `running` under a claim
whose outcomes this process had recorded. Their attempts were made, so they are made orphans, and the next rescue counts
them and makes them `available`.

**PostgreSQL is away.** Attempts go on as long as the lease is trusted and the backlog has room; then slots are held
back. Outcomes stay in the backlog until they are confirmed. Each loop tries again by itself, with a pause that grows.

**The lease runs out.** A process trusts it for four fifths of its length, measured from before a renewal was asked for;
others rescue only after the whole of it. Before that moment all attempts are cut short, what waits is given up, and
a claim whose answer comes later is released unsent. A claim is not even begun while a renewal is overdue.

**The process dies.** Its jobs stay `running` until another process has seen no sign of it for a whole lease; rescue
counts the attempt, and makes them `available`. **The machine sleeps:** leases are measured on a clock that goes on
meanwhile, and each attempt looks at its lease once more before its first byte leaves.

**A row can't be read.** The claim that reads it fails, and all others in it. `caution.py` claims one by one until it is
known which it was; that job is condemned, all others are delivered. A row that is read but holds nonsense is `dead`
after one attempt that sends nothing.

**An outcome can't be written.** One whose row is locked, or whose data is refused, is set aside and tried by itself, so
that it holds up no other; refused data goes without its answer, because the state matters more.

**A receiver hangs.** It has its channel's slots at most; an eighth of a process's slots is reserved for channels that
have none. What was claimed ahead for it is released after a second in which no attempt ended.

**This machine lacks something** (descriptors, memory, threads, ports). The job goes back uncounted, and what its
channel had not begun with it; the channel is claimed for again with what was possible beside it, and a little more each
second.

**The block ends.** Nothing more is claimed, what is not begun is released at once, attempts have the grace. Then, in a
shield: outcomes are written, what is unfinished is released uncounted, the process signs off. What can't be done in
five seconds, others do after the lease.

**An exception in an attempt** is that attempt's outcome; nothing that a receiver or a row does reaches the nursery. Any
other exception of these tasks is an error of the library: it ends the block, and the shield above still records and
releases.
"""
