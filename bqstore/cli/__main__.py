"""``python -m bqstore.cli``: the same command, if the script `bqstore` is not on the PATH."""

from . import main

main()
