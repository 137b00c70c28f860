"""`backup()`: a copy of a collection while searches and writes go on, here and in other processes."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Progress
from ..results.outcomes import BackupReport
from ..storage.backup import back_up
from ..storage.folders import collection_folder

if TYPE_CHECKING:
    from .engine import Engine


def backup(engine: "Engine", path: Path, incremental: bool) -> BackupReport:
    """Copy the last commit into a store at ``path``, and read the copy back."""
    engine.store.check_place()
    folder = collection_folder(path, engine.name)
    with Progress("copying") as progress:
        if engine.store.folder is None:  # other threads wait: there is one connection, and the arrays may move
            head, written = engine.publisher.at_one_commit(
                lambda _: back_up(engine.store, folder, incremental, progress)
            )
        else:
            head, written = back_up(engine.store, folder, incremental, progress)
    return BackupReport(str(path), engine.name, head.n_live, head.n_slots, written)
