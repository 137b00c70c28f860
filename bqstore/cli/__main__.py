"""``python -m bqstore.cli``: the same command, for where the script `bqstore` is not on the PATH."""

from . import main

main()
