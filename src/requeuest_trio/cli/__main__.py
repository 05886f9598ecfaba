"""The entry point: `requeuest`, or `python -m requeuest_trio.cli`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command. What it needs besides the library is an extra, so its absence is said in a sentence."""
    try:
        from requeuest_trio.cli.commands import requeuest  # noqa: PLC0415 - imports click and rich, which may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        print("requeuest: the command is not installed: run pip install 'requeuest-trio[cli]'", file=sys.stderr)
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to stop half-way.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    requeuest(prog_name="requeuest")


if __name__ == "__main__":
    main()
