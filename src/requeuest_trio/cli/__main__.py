"""The entry point: `requeuest`, or `python -m requeuest_trio`."""

import sys

from requeuest_trio.cli.streams import Unwritten, prepare_streams

__all__ = ["main"]

_INTERRUPTED = 130
"""Ctrl-C, as shells have it. Not that of `running`, which may be what is being loaded."""


def main() -> None:
    """Run the command. What it needs besides the library is an extra, so its absence is said in a sentence."""
    try:
        _main()
    except KeyboardInterrupt:  # while it is being loaded; later, others see to it
        sys.exit(_INTERRUPTED)


def _main() -> None:
    prepare_streams()
    try:
        from click import Abort, ClickException  # noqa: PLC0415 - may be missing

        from requeuest_trio.cli.commands import requeuest  # noqa: PLC0415 - imports rich, which may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        print("requeuest: the command is not installed: run pip install 'requeuest-trio[cli]'", file=sys.stderr)
        sys.exit(2)
    try:
        # click's own way would end Ctrl-C with the status of a delivery that was given up.
        sys.exit(requeuest.main(prog_name="requeuest", standalone_mode=False))
    except ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Abort:
        sys.exit(_INTERRUPTED)
    except Unwritten as error:
        error.tell()
        sys.exit(error.status)


if __name__ == "__main__":
    main()
