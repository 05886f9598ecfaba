"""
Benchmarks: floors, requeuest-trio and its peers, one after the other on one machine. `make bench` runs them.

In reading order:

- `cases` lists what is measured, and what each figure is divided by; `sizes` says how much of it.
- `conductor` runs the cases in turn, repeats them, and writes down what came of it; `figures` has the arithmetic.
- `drains`, `enqueues`, `latencies`, `backlogs` and `floors` each measure one kind of case.
- `setting` is what all of them share: the `server` with its `database`, the `receiver`, the `workload`, and `process`,
  which starts programs.
- `programs` run as processes of their own, so that nobody's Python slows down anybody else's; `contestants` are the
  queues that they run.
- `machine` and `report` say where it was measured, and print it.

Of requeuest-trio its public interface is measured, as an application uses it. Only the server is started in a way that
applications have no use for.
"""
