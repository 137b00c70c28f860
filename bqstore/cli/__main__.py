"""``python -m bqstore.cli``: the same command, where its script is not on the PATH."""

from . import main

main()
