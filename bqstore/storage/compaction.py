"""Compaction, the slow half: the live records copied into the flat files of a new generation. Knows no commits.

The old files are only read, so that searches go on; rids stay as they are, so that no row is touched. Until the head
row names the new generation its files are litter. `Store.commit_compaction` is the other half.

Codes are copied like the rest, or made anew from the vectors: they may then be of another form.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError, StorageError
from .files import RecordFile
from .flat import FlatFiles
from .format import F32, U32, U64, code_records, damaged, rids_of, vectors_of
from .head import Head, as_stored, untrained

_PIECE: Final = 8 << 20  # bytes of records read at a time

Progress = Callable[[int, int], None]  # records copied, records in all


@dataclass(frozen=True)
class Recode:
    """How the codes of the new generation are made.

    Parameters
    ----------
    settings : dict                 all of ``Head.settings`` from the commit on; "coding" says what `encode` makes
    parameters : float32 (count,)   what it was trained to, kept in the codes file; none for one bit by sign
    encode : called with vectors, float32 (n, dim), as they are kept; gives their codes, uint64 (n, words)
    """

    settings: dict[str, Any]
    parameters: F32
    encode: Callable[[F32], U64]


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
    flat: FlatFiles,
    head: Head,
    ordinals: NDArray[np.int64],
    dead: list[int],
    progress: Progress | None,
    recode: Recode | None,
) -> Compaction:
    """Copy the records of these slots into a new generation, every checksum compared, and sync it.

    Parameters
    ----------
    ordinals : int64 (n_live,)      the live slots, ascending
    dead : list of int              the rids that must not be among them
    progress : called after each piece; an exception of its, or of `Recode.encode`, ends the copying
    recode : Recode or None         None: codes stay as they are

    Raises CorruptionError if a record is damaged, StorageError if the disk refuses or there are no vectors to encode,
    SyncFailedError.
    """
    n = len(ordinals)
    assert n == head.n_live and (np.diff(ordinals) > 0).all()
    settings = head.settings if recode is None else as_stored(recode.settings)
    if n == 0:
        settings = untrained(settings)
    new = replace(head, seq=head.seq + 1, generation=head.generation + 1, n_slots=n, n_live=n, settings=settings)
    fresh = FlatFiles(flat.folder, read_only=False)
    if n == 0:
        return Compaction(head, new, fresh)
    assert flat.codes is not None
    if recode is not None and flat.vectors is None:
        raise StorageError("this collection keeps no originals, and codes cannot be made of codes; nothing was changed")
    fresh.create(replace(new, n_slots=0, n_live=0), flat.codes.parameters if recode is None else recode.parameters)
    for file in fresh.both():
        file.reserve(n)
    buried = np.array(dead, np.int64)
    step = max(1, _PIECE // max(file.layout.record_bytes for file in flat.both() + fresh.both()))
    done = 0
    for at in range(0, head.n_slots, step):
        some = ordinals[slice(*np.searchsorted(ordinals, (at, at + step)))]
        if len(some):
            _copy(flat, fresh, some, done, buried, None if recode is None else recode.encode)
            done += len(some)
            if progress is not None:
                progress(done, n)
    assert done == n
    fresh.trim(n)
    fresh.sync()
    return Compaction(head, new, fresh)


def _copy(
    flat: FlatFiles,
    fresh: FlatFiles,
    ordinals: NDArray[np.int64],
    slot: int,
    buried: NDArray[np.int64],
    encode: Callable[[F32], U64] | None,
) -> None:
    """Copy the records of slots that lie close together to a slot and those behind it."""
    rids, vectors = None, None
    for source, target in zip(flat.both(), fresh.both(), strict=True):
        records = _checked(source, ordinals)
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
        if encode is not None and source is flat.vectors:
            vectors = vectors_of(source.layout, records)
        elif encode is not None and vectors is not None:  # the old codes were read for their rids
            records = code_records(target.layout, rids, encode(vectors))
        target.write(slot, records)


def _checked(source: RecordFile, ordinals: NDArray[np.int64]) -> U32:
    """The records of slots that lie close together, uint32 (n, words); CorruptionError if any is damaged."""
    first, last = int(ordinals[0]), int(ordinals[-1])
    records = source.read(first, last - first + 1)
    if len(records) > len(ordinals):
        records = records[ordinals - first]
    bad = damaged(records)
    if bad.any():
        raise CorruptionError(
            f"record {int(ordinals[bad.argmax()]):,} of {source.name} does not agree with its checksum; nothing "
            "was changed: restore the collection from a copy"
        )
    return records
