"""What the command can do: one file for each of these."""

import click

from requeuest_trio.cli.demo import demo
from requeuest_trio.cli.jobs import jobs
from requeuest_trio.cli.migrate import migrate
from requeuest_trio.cli.send import send
from requeuest_trio.cli.show import show
from requeuest_trio.cli.worker import worker

__all__ = ["requeuest"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="requeuest-trio", message="requeuest-trio %(version)s")
def requeuest() -> None:
    """Deliver HTTP requests reliably, with PostgreSQL as the queue.

    \b
    Begin with:       requeuest demo
    Help with one:    requeuest send --help

    Exit status: 0 all is well; 1 something was given up, or not delivered as it should be; 2 it could not be done, and
    one line says why; 130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP before it was done; 141 its output was not
    read to the end; 74 its output could not be written. Standard error only tells: if it can't be written, nothing
    stops.
    """


for _command in (demo, send, worker, migrate, jobs, show):
    requeuest.add_command(_command)
