"""`python -m requeuest_trio`: the command `requeuest`."""

from requeuest_trio.cli.__main__ import main

if __name__ == "__main__":
    main()
