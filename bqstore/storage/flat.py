"""The flat files of one generation: vectors and, in the same order, their codes. Knows no rows and no commits.

The head row says how many records are committed; what lies past them is garbage that the next write overwrites. There
is no vectors file when originals are not kept. In memory the same two files are arrays.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError, StorageError
from . import platform
from .files import DiskFile, MemoryFile, RecordFile, storage_errors
from .format import (
    F32,
    FORMS,
    NO_PARAMETERS,
    U32,
    U64,
    Layout,
    code_records,
    codes_of,
    damaged,
    header_bytes,
    rids_of,
    vector_records,
    vectors_of,
)
from .head import Head, code_form, coded_dim
from .place import Entries

_NAME = re.compile(r"(vectors|codes)-(\d+)\.(bin|tmp)")
_AT_ONCE = 4096  # records built and written at a time: some 25 MB of 1,536 dimensions

Remake = Callable[[F32], U64]


class SyncFailedError(StorageError):
    """A sync failed: what is durable is not known, and a second sync would not show it."""


class FlatFiles:
    """Both files, open or not.

    Attributes
    ----------
    vectors, codes : RecordFile     None until there are records; vectors also None when originals are not kept
    generation : int                of the codes that are open
    entries : Entries or None       of the folder; None in memory
    remade : dict                   by slot: records of codes that were damaged, made anew
    """

    vectors: RecordFile | None = None
    codes: RecordFile | None = None
    generation = -1

    def __init__(self, folder: Path | None, read_only: bool, entries: Entries | None = None) -> None:
        self.folder = folder
        self.entries = Entries(folder) if entries is None and folder is not None else entries
        self._read_only = read_only
        self.remade: dict[int, U32] = {}

    def both(self) -> list[RecordFile]:
        """Those that are open."""
        return [file for file in (self.vectors, self.codes) if file is not None]

    def drop(self) -> None:
        """Forget both files; a search that holds one keeps it open."""
        self.vectors = self.codes = None
        self.remade.clear()

    def close(self) -> None:
        """Forget both files and give their descriptors back; a search that holds one reads on in its map."""
        for file in self.both():
            file.rest()
        self.drop()

    def take(self, other: "FlatFiles") -> None:
        """Hold the files that another object holds."""
        self.vectors, self.codes, self.generation = other.vectors, other.codes, other.generation

    def open(self, head: Head, missing: Callable[[Path], Exception]) -> None:
        """Open the files of the head's generation, checked; ``missing`` makes the error for a file that is absent."""
        self.drop()
        if head.n_slots:  # else any files are left by a first write that was not committed
            self._hold([self._open_one(layout, head, missing) for layout in layouts(head)], head)

    def _open_one(self, layout: Layout, head: Head, missing: Callable[[Path], Exception]) -> RecordFile:
        path = self._path(layout, head)
        with storage_errors(f"open {path}"):
            try:
                return DiskFile.open(
                    path, layout, head.generation, head.store_id, head.n_slots, self._read_only, self.entries
                )
            except FileNotFoundError as error:
                raise missing(path) from error

    def create(self, head: Head, parameters: F32 = NO_PARAMETERS) -> None:
        """Make the files of the head's generation, empty; they replace those of a first write that was not committed.

        Parameters
        ----------
        parameters : float32 (count,)   the encoder's, for the codes file; empty for codes of one bit by sign
        """
        assert head.n_slots == 0, "files with committed records are never made anew"
        assert parameters.dtype == np.float32 and parameters.ndim == 1
        self._hold([self._create_one(layout, head, parameters) for layout in layouts(head)], head)

    def _create_one(self, layout: Layout, head: Head, parameters: F32) -> RecordFile:
        parameters = parameters if layout.kind == "codes" else NO_PARAMETERS
        assert layout.has_parameters or not parameters.size
        if self.folder is None:
            return MemoryFile(layout, parameters)
        path = self._path(layout, head)
        return DiskFile.create(path, layout, head.generation, head.store_id, parameters, self.entries)

    def _hold(self, files: list[RecordFile], head: Head) -> None:
        self.vectors, self.codes, self.generation = files[0] if len(files) == 2 else None, files[-1], head.generation

    def _path(self, layout: Layout, head: Head) -> Path:
        assert self.folder is not None
        return self.folder / f"{layout.kind}-{head.generation}.bin"

    def write(self, slot: int, first_rid: int, vectors: F32, codes: U64) -> None:
        """Write records from a slot on, with consecutive rids. They are durable after `sync`.

        Parameters
        ----------
        vectors : float32 (n, dim)
        codes : uint64 (n, words)
        """
        assert self.codes is not None
        for at in range(0, len(vectors), _AT_ONCE):
            some = slice(at, min(at + _AT_ONCE, len(vectors)))
            rids = np.arange(first_rid + some.start, first_rid + some.stop, dtype=np.int64)
            if self.vectors is not None:
                self.vectors.write(slot + at, vector_records(self.vectors.layout, rids, vectors[some]))
            self.codes.write(slot + at, code_records(self.codes.layout, rids, codes[some]))

    def sync(self) -> None:
        """Return when everything written is durable, in files that the next opening finds.

        Raises SyncFailedError; CorruptionError where a file was removed or replaced while open.
        """
        for file in self.both():
            try:
                file.sync()
            except OSError as error:
                words = f"{file.name} could not be synced: {platform.reason(error)}; nothing was changed"
                raise SyncFailedError(error.errno, words) from error
            file.check_name()

    def read_codes(self, slot: int, count: int, remake: Remake | None = None) -> tuple[NDArray[np.int64], U64]:
        """The rids, int64 (count,), and codes, uint64 (count, words), of slots; count > 0. Raises CorruptionError.

        With ``remake``, which makes codes of vectors, damaged codes are made anew from the originals, if those are
        kept. `mend` writes them.
        """
        assert self.codes is not None
        if remake is None or self.vectors is None:
            records = self.codes.read_checked(np.arange(slot, slot + count))
        else:
            records = self.codes.read(slot, count)
            bad = np.flatnonzero(damaged(records))
            if len(bad):
                originals = np.concatenate([self.vectors.read_checked(bad[i : i + 1] + slot) for i in range(len(bad))])
                codes = remake(vectors_of(self.vectors.layout, originals))
                records[bad] = code_records(self.codes.layout, rids_of(originals), codes)
                self.remade.update(zip((bad + slot).tolist(), records[bad], strict=True))
        self.codes.rest()  # they are in memory from here on
        return rids_of(records), codes_of(self.codes.layout, records)

    def mend(self) -> None:
        """Write the codes that were made anew over the damaged ones, under the lock.

        Only here are committed records overwritten: nobody takes a damaged one for a record.
        """
        with suppress(StorageError, OSError):  # they are made anew again at the next opening
            for slot, record in self.remade.items():
                assert self.codes is not None
                self.codes.write(slot, record[None])
            for file in self.both() if self.remade else []:
                file.sync()
        self.remade.clear()

    def trim(self, count: int) -> None:
        """Cut off the space that the files were grown ahead of their records."""
        for file in self.both():
            with suppress(OSError):  # it costs space, no more
                file.trim(count)

    def sweep(self, generation: int) -> None:
        """Remove the files of other generations, and temporary ones."""
        if self.entries is None:
            return
        with suppress(OSError):  # they cost space, no more; the next opening tries again
            for name in self.entries.names():
                match = _NAME.fullmatch(name)
                if match and (int(match[2]) != generation or match[3] == "tmp"):
                    with suppress(OSError):
                        self.entries.unlink(name)


def layouts(head: Head) -> list[Layout]:
    """The layouts of the vectors file, if originals are kept, and of the codes file.

    Raises CorruptionError if the head's coding does not exist.
    """
    assert head.dim is not None
    originals = head.settings.get("originals")
    if not isinstance(originals, str):
        raise CorruptionError(f"originals={originals!r} is not known to this format")
    vectors = [Layout("vectors", head.dim, FORMS[originals])] if originals in FORMS else []
    form = code_form(head.settings)  # first, because it says what is wrong with a coding
    return [*vectors, Layout("codes", coded_dim(head.settings, head.dim), form)]


def size_of(head: Head, parameters: F32 = NO_PARAMETERS) -> int:
    """Bytes of both files of a generation with the records that its head counts, without room ahead."""
    size = 0
    for layout in layouts(head):
        header = header_bytes(layout, 0, 0, parameters if layout.has_parameters else NO_PARAMETERS)
        size += len(header) + head.n_slots * layout.record_bytes
    return size


def flat_files(folder: Path | None) -> list[Path]:
    """The flat files in a folder, of any generation."""
    if folder is None or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
