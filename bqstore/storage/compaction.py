"""The slow part of a compaction: live records are copied into the flat files of a new generation. Knows no commits.

The old files are only read, so searches go on. Rids stay the same, so no row changes. Until a head row names the new
generation, its files are garbage; `Store.commit_compaction` is the fast part. Codes are copied, or made anew from the
stored vectors, possibly in another form.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import RESTORE, CorruptionError, StorageError
from .flat import FlatFiles
from .format import F32, U64, code_records, rids_of, vector_records, vectors_of
from .head import Coding, Head, as_stored, untrained, with_scales

_PIECE: Final = 8 << 20  # bytes of records read at a time

Progress = Callable[[int, int], None]  # records copied, records in all


@dataclass(frozen=True)
class Recode(Coding):
    """How the codes of the new generation are made from the stored vectors.

    Parameters
    ----------
    settings, parameters : see `Coding`
    encode : called with vectors, float32 (n, dim); returns their codes, uint64 (n, words)
    vectors : called with rids, int64 (n,), ascending; returns other vectors for them. None: those that are stored
    dim : int or None       of those other vectors
    """

    encode: Callable[[F32], U64]
    vectors: Callable[[NDArray[np.int64]], F32] | None = None
    dim: int | None = None


@dataclass(frozen=True)
class Compaction:
    """A generation of flat files that is durable and not committed.

    Parameters
    ----------
    old, new : Head     the commit it was copied from, and the one that will name it
    flat : FlatFiles    the new files; none if nothing is live
    """

    old: Head
    new: Head
    flat: FlatFiles


def next_head(head: Head, recode: Recode | None) -> Head:
    """The head of the new generation, with the live records of an old one."""
    n, settings = head.n_live, head.settings if recode is None else as_stored(recode.settings)
    if n == 0:
        settings = untrained(settings)
    dim = head.dim if recode is None or recode.dim is None else recode.dim
    return replace(
        head, seq=head.seq + 1, generation=head.generation + 1, n_slots=n, n_live=n, dim=dim, settings=settings
    )


def copy_live(
    flat: FlatFiles,
    head: Head,
    ordinals: NDArray[np.int64],
    dead: list[int],
    progress: Progress | None,
    recode: Recode | None,
) -> Compaction:
    """Copy records into a new generation, checksums verified, and sync it.

    Parameters
    ----------
    ordinals : int64 (n_live,)      the live slots, ascending
    dead : list of int              rids with a tombstone, which must not be among them
    progress : called after each piece; an exception from it, or from `Recode.encode`, ends the copying
    recode : Recode or None         None copies the codes as they are

    Raises CorruptionError if a record is damaged; StorageError if the disk refuses, or if there are no vectors to
    encode; SyncFailedError.
    """
    n = len(ordinals)
    assert n == head.n_live and (np.diff(ordinals) > 0).all()
    new = next_head(head, recode)
    fresh = FlatFiles(flat.folder, read_only=False, entries=flat.entries)
    if n == 0:
        return Compaction(head, new, fresh)
    assert flat.codes is not None
    if recode is not None and recode.vectors is None and flat.vectors is None:
        raise StorageError("this collection keeps no originals to make new codes from; nothing was changed")
    fresh.create(replace(new, n_slots=0, n_live=0), flat.codes.parameters if recode is None else recode.parameters)
    for file in fresh.both():
        file.reserve(n)
    tombstones = np.array(dead, np.int64)
    step = max(1, _PIECE // max(file.layout.record_bytes for file in flat.both() + fresh.both()))
    done = 0
    for at in range(0, head.n_slots, step):
        some = ordinals[slice(*np.searchsorted(ordinals, (at, at + step)))]
        if len(some):
            vectors = _copy(flat, fresh, some, done, tombstones, recode)
            if vectors is not None:
                new = replace(new, settings=with_scales(new.settings, vectors))
            done += len(some)
            if progress is not None:
                progress(done, n)
    fresh.trim(n)
    fresh.sync()
    return Compaction(head, new, fresh)


def _copy(
    flat: FlatFiles,
    fresh: FlatFiles,
    ordinals: NDArray[np.int64],
    slot: int,
    tombstones: NDArray[np.int64],
    recode: Recode | None,
) -> F32 | None:
    """Copy the records of slots that lie close together to a slot and those after it.

    Returns other vectors that were written in their place, float32 (n, dim); None if there are none.
    """
    other = recode is not None and recode.vectors is not None  # then damage in the stored ones does not matter
    pieces = [file.read_checked(ordinals) for file in flat.both()[-1 if other else 0 :]]
    rids = rids_of(pieces[0])
    # otherwise a file, or the list of tombstones, belongs to another collection or commit
    if np.isin(rids, tombstones).any() or (np.diff(rids) <= 0).any() or (rids != rids_of(pieces[-1])).any():
        raise CorruptionError(
            f"the records of the flat files are not those of the rows; nothing was changed: {RESTORE}"
        )
    vectors = None
    if recode is not None:
        if recode.vectors is not None:
            vectors = recode.vectors(rids)
            pieces = [] if fresh.vectors is None else [vector_records(fresh.vectors.layout, rids, vectors)]
        else:
            vectors = vectors_of(flat.both()[0].layout, pieces[0])
            pieces = pieces[:1]
        pieces.append(code_records(fresh.both()[-1].layout, rids, recode.encode(vectors)))
    for target, records in zip(fresh.both(), pieces, strict=True):
        target.write(slot, records)
    return vectors if other else None
