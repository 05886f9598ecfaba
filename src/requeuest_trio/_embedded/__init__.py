"""
The embedded server's own rooms, in reading order: `files`, `server`, `keeper`, `account`.

`files` has the names and the locks in a server's home directory, `server` makes, starts and stops PostgreSQL, `keeper`
is the small process that does so and knows when, `account` finds an account to run PostgreSQL as where we are root,
`trust` finds it a directory that no other user can exchange. The way in is `requeuest_trio.embedded`.

The first three use the standard library only, because the keeper runs without anything else.
"""
