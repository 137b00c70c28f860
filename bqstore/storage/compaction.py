"""Compaction, the slow half: the live records copied into the flat files of a new generation. Knows no commits.

The old files are only read, so that searches go on; rids stay as they are, so that no row is touched. Until the head
row names the new generation its files are litter. `Store.commit_compaction` is the other half.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError
from .flat import FlatFiles
from .format import damaged, rids_of
from .head import Head

_PIECE: Final = 8 << 20  # bytes of records read at a time

Progress = Callable[[int, int], None]  # records copied, records in all


@dataclass(frozen=True)
class Compaction:
    """A generation of flat files that is durable, and that no commit names.

    Parameters
    ----------
    old, new : Head     the commit it was made of, and the one to come
    flat : FlatFiles    the new files; none if nothing is live
    """

    old: Head
    new: Head
    flat: FlatFiles


def copy_live(
    flat: FlatFiles, head: Head, ordinals: NDArray[np.int64], dead: list[int], progress: Progress | None
) -> Compaction:
    """Copy the records of these slots into a new generation, every checksum compared, and sync it.

    Parameters
    ----------
    ordinals : int64 (n_live,)      the live slots, ascending
    dead : list of int              the rids that must not be among them
    progress : called after each piece; an exception of its ends the copying

    Raises CorruptionError if a record is damaged, StorageError if the disk refuses, SyncFailedError.
    """
    n = len(ordinals)
    assert n == head.n_live and (np.diff(ordinals) > 0).all()
    new = replace(head, seq=head.seq + 1, generation=head.generation + 1, n_slots=n, n_live=n)
    fresh = FlatFiles(flat.folder, read_only=False)
    if n == 0:
        return Compaction(head, new, fresh)
    fresh.create(replace(new, n_slots=0, n_live=0))
    for file in fresh.both():
        file.reserve(n)
    buried = np.array(dead, np.int64)
    step = max(1, _PIECE // max(file.layout.record_bytes for file in flat.both()))
    done = 0
    for at in range(0, head.n_slots, step):
        some = ordinals[slice(*np.searchsorted(ordinals, (at, at + step)))]
        if len(some):
            _copy(flat, fresh, some, done, buried)
            done += len(some)
            if progress is not None:
                progress(done, n)
    assert done == n
    fresh.trim(n)
    fresh.sync()
    return Compaction(head, new, fresh)


def _copy(flat: FlatFiles, fresh: FlatFiles, ordinals: NDArray[np.int64], slot: int, buried: NDArray[np.int64]) -> None:
    """Copy the records of slots that lie close together to a slot and those behind it."""
    first, last = int(ordinals[0]), int(ordinals[-1])
    rids = None
    for source, target in zip(flat.both(), fresh.both(), strict=True):
        records = source.read(first, last - first + 1)
        if len(records) > len(ordinals):
            records = records[ordinals - first]
        bad = damaged(records)
        if bad.any():
            raise CorruptionError(
                f"record {int(ordinals[bad.argmax()]):,} of {source.name} does not agree with its checksum; nothing "
                "was changed: restore the collection from a copy"
            )
        if rids is None:
            rids = rids_of(records)
            wrong = bool(np.isin(rids, buried).any()) or bool((np.diff(rids) <= 0).any())
        else:
            wrong = not np.array_equal(rids, rids_of(records))
        if wrong:  # of a file that was swapped, or a list of the dead that was
            raise CorruptionError(
                f"the records of {source.name} are not those of the rows; nothing was changed: "
                "restore the collection from a copy"
            )
        target.write(slot, records)
