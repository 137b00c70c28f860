"""What a fork of this process does first: locks, threads and connections that it inherits are not its own."""

import os
from collections.abc import Callable


def in_forks(call: Callable[[], object]) -> None:
    """Call a function in each fork of this process, before the fork goes on. Windows has no forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)
