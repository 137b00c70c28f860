"""Whether the folder at the path is still the one that was opened. Knows no formats.

Rows and records go through descriptors, so they would reach a folder that was removed or moved; new files, snapshots
and sweeps go by path, so they would reach whatever folder stands there now, and destroy its contents.
"""

import os
import weakref
from collections.abc import Callable
from pathlib import Path

from ..errors import FolderReplacedError


class Place:
    """A folder as it was opened, and for a writer the catalogue in it.

    Keeps a descriptor of the folder, whose inode the system could otherwise give to a new one.
    """

    close: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, folder: Path, writing: bool) -> None:
        self._paths = [folder, folder / "meta.db"] if writing else [folder]
        if os.name != "nt":
            self.close = weakref.finalize(self, os.close, os.open(folder, os.O_RDONLY))
        self._opened = self._found()

    def _found(self) -> list[tuple[int, int]]:
        found = [path.stat() for path in self._paths]
        return [(each.st_dev, each.st_ino) for each in found]

    def check(self) -> None:
        """Raise FolderReplacedError unless everything is where it was; some microseconds."""
        try:
            same, what = self._found() == self._opened, "another folder stands there, or another meta.db in it"
        except (FileNotFoundError, NotADirectoryError) as error:
            same, what = False, f"{Path(error.filename).name} is not there any more"
        if not same:
            raise FolderReplacedError(
                f"{self._paths[0]} was removed, replaced or moved while it was open ({what}): this call is "
                "not acknowledged; close the collection and open the path again"
            )
