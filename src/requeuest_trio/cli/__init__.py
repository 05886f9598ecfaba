"""The command `requeuest`, on top of the library's public names.

`__main__` starts it, `commands` lists what there is, and each command has a file of its own: `demo`, `send`, `worker`,
`migrate`, `jobs`, `show`. What they share, in the order in which `send` uses it:

- `request_file` reads requests from JSON lines; pure;
- `dsn` opens a queue only to look at it, and names it in commands to paste, without its secrets;
- `streams` makes standard output and error safe to use, whatever they lead to;
- `names` remarks on channels whose names look like several or all;
- `running` runs a command under Trio and turns errors into a line and an exit status; `signals` stops it;
- `delivery` stores requests and follows them; `tally` counts; `progress` shows the count while it grows;
- `summary` is what is said at the end; `table`, `display` and `documents` turn values into text and into JSON.

`demo` adds a `faulty_receiver`, and the `comparison` of what it saw with what the file says.
"""
