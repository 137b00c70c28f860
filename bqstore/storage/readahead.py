"""When to prefetch the records that a search will rescore: as long as reading them waits for the disk.

A scan or a walk of the codes ends with a list of records to read. On a cold disk, reading them one after the other
costs one wait each, and prefetching them together about one wait in all. Once they are in the page cache, prefetching
only costs 1 us a record; so it stops until a search without it meets major page faults again.
"""

from typing import Final

from . import platform

SEARCHES: Final = 64  # so many searches prefetch after opening, and after each sign of a cold disk
SAMPLED: Final = 32  # one in so many of the other searches looks for such a sign, by two system calls


class ReadAhead:
    """The counters of one file. They are not locked: being off by one does no harm.

    Attributes
    ----------
    left : int          searches that are still to prefetch; `begin` counts them down
    unsampled : int     searches that may skip `begin`; the caller that skips it counts down
    """

    def __init__(self) -> None:
        self.left = SEARCHES
        self.unsampled = 0

    def begin(self, searches: int = 1) -> int | None:
        """None: prefetch. Else a number to pass to `end` after the search."""
        if self.left > 0:
            self.left = max(0, self.left - searches)
            return None
        self.unsampled = SAMPLED - 1
        return platform.major_faults()

    def end(self, before: int | None) -> None:
        """Prefetch again if the search that did not has waited for the disk."""
        if before is not None and platform.major_faults() > before:
            self.left = SEARCHES
            self.unsampled = 0
