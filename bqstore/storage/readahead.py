"""When to ask the system for records ahead of rescoring: while reading them still waits for the disk.

A code scan ends with a list of records to read, all known at once. Read one after the other from a cold disk they cost
a wait each; asked for together, about one. Once they are in the page cache the asking is the cost, 1 us a record: so it
stops, until a search without it meets major page faults again. Knows counts only.
"""

from typing import Final

from . import platform

SEARCHES: Final = 64  # that ask ahead, after opening and after each sign of a cold disk
SAMPLED: Final = 32  # of the others one in so many looks for such a sign: looking costs two system calls


class ReadAhead:
    """The memory of one file. Not locked: a count that is off by one does no harm.

    Attributes
    ----------
    left : int          searches that are still to ask ahead; `begin` counts them down
    unsampled : int     searches that need not ask `begin`; whoever skips it counts down
    """

    def __init__(self) -> None:
        self.left = SEARCHES
        self.unsampled = 0

    def begin(self, searches: int = 1) -> int | None:
        """None: ask ahead; else a number for `end`."""
        if self.left > 0:
            self.left = max(0, self.left - searches)
            return None
        self.unsampled = SAMPLED - 1
        return platform.major_faults()

    def end(self, before: int | None) -> None:
        """Look whether the search that did not ask had to wait for the disk."""
        if before is not None and platform.major_faults() > before:
            self.left = SEARCHES
            self.unsampled = 0
