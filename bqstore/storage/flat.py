"""The flat files of one generation: the vectors and, in the same order, their codes. Knows no rows and no commits.

Which records count is for the head row to say; what lies past them is litter, and written over. When originals are not
kept there is no vectors file. In memory the same two files are arrays.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptionError, InvalidInputError, StorageError
from .files import DiskFile, MemoryFile, RecordFile
from .format import F32, FORMS, NO_PARAMETERS, U64, Layout, code_records, codes_of, damaged, rids_of, vector_records
from .head import Head, code_form, coded_dim

_NAME = re.compile(r"(vectors|codes)-(\d+)\.(bin|tmp)")
_AT_ONCE = 4096  # records built and written at a time: some 25 MB of 1,536 dimensions


class SyncFailedError(StorageError):
    """A sync failed; whether anything was kept is unknown, and asking again would not tell."""


class FlatFiles:
    """Both files, open or not.

    Attributes
    ----------
    vectors, codes : RecordFile     None until there are records; vectors also None when originals are not kept
    """

    def __init__(self, folder: Path | None, read_only: bool) -> None:
        self.folder = folder
        self.vectors: RecordFile | None = None
        self.codes: RecordFile | None = None
        self._read_only = read_only

    def both(self) -> list[RecordFile]:
        """Those that are open."""
        return [file for file in (self.vectors, self.codes) if file is not None]

    def drop(self) -> None:
        """Let go of them; a search that holds one keeps it open."""
        self.vectors = self.codes = None

    def take(self, other: "FlatFiles") -> None:
        """Hold the files that another one holds."""
        self.vectors, self.codes = other.vectors, other.codes

    def open(self, head: Head, missing: Callable[[Path], Exception]) -> None:
        """Open the files of the head's generation, headers and sizes checked; ``missing`` makes the error for none."""
        self.drop()
        if head.n_slots == 0:
            return  # files that are there are of a first write that did not come to its commit
        vectors, codes = layouts(head)
        self.vectors = self._open_one(vectors, head, missing) if vectors else None
        self.codes = self._open_one(codes, head, missing)

    def _open_one(self, layout: Layout, head: Head, missing: Callable[[Path], Exception]) -> RecordFile:
        path = self._path(layout, head)
        try:
            return DiskFile.open(path, layout, head.generation, head.store_id, head.n_slots, self._read_only)
        except FileNotFoundError as error:
            raise missing(path) from error
        except OSError as error:
            raise StorageError(error.errno, f"cannot open {path}: {error.strerror}") from error

    def create(self, head: Head, parameters: F32 | None = None) -> None:
        """Make the files of the head's generation, empty; in the place of any that have its number and no commit.

        Parameters
        ----------
        parameters : float32 (count,)   of the codes that the head's coding names; None for codes that have none
        """
        assert head.n_slots == 0, "files with committed records are never made anew"
        vectors, codes = layouts(head)
        assert parameters is not None or not codes.has_parameters, "codes of this form need their parameters"
        parameters = NO_PARAMETERS if parameters is None else parameters
        assert parameters.dtype == np.float32 and parameters.ndim == 1 and (codes.has_parameters or not parameters.size)
        self.vectors = self._create_one(vectors, head, NO_PARAMETERS) if vectors else None
        self.codes = self._create_one(codes, head, parameters)

    def _create_one(self, layout: Layout, head: Head, parameters: F32) -> RecordFile:
        if self.folder is None:
            return MemoryFile(layout, parameters)
        return DiskFile.create(self._path(layout, head), layout, head.generation, head.store_id, parameters)

    def _path(self, layout: Layout, head: Head) -> Path:
        assert self.folder is not None
        return self.folder / f"{layout.kind}-{head.generation}.bin"

    def write(self, slot: int, first_rid: int, vectors: F32, codes: U64) -> None:
        """Write records from a slot on, rids counted up from the first; durable after `sync`.

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
        """Return when all that was written is durable; SyncFailedError if the system cannot say so."""
        for file in self.both():
            try:
                file.sync()
            except OSError as error:
                words = f"{file.name} could not be synced: {error.strerror}; nothing was changed"
                raise SyncFailedError(error.errno, words) from error

    def read_codes(self, slot: int, count: int) -> tuple[NDArray[np.int64], U64]:
        """The rids, int64 (count,), and codes, uint64 (count, words), of slots; CorruptionError if any is damaged."""
        assert self.codes is not None
        records = self.codes.read(slot, count)
        bad = damaged(records)
        if bad.any():
            raise CorruptionError(
                f"record {slot + int(bad.argmax()):,} of {self.codes.name} does not agree with its checksum; "
                "restore the collection from a copy"
            )
        return rids_of(records), codes_of(self.codes.layout, records)

    def trim(self, count: int) -> None:
        """Cut off what the files were grown ahead of their records."""
        for file in self.both():
            with suppress(OSError):  # it costs space, no more
                file.trim(count)

    def sweep(self, generation: int) -> None:
        """Remove the files of other generations: a crash came between a commit and their removal."""
        for path in flat_files(self.folder):
            match = _NAME.fullmatch(path.name)
            if match and (int(match[2]) != generation or match[3] == "tmp"):
                with suppress(OSError):  # they cost space, no more
                    path.unlink()


def layouts(head: Head) -> tuple[Layout | None, Layout]:
    """The layouts of the vectors file, None where originals are not kept, and of the codes file.

    Raises CorruptionError if the head's coding is none that there is.
    """
    assert head.dim is not None
    kept = FORMS.get(head.settings["originals"])
    vectors = None if kept is None else Layout("vectors", head.dim, kept)
    form = code_form(head.settings)
    return vectors, Layout("codes", coded_dim(head.settings, head.dim), form)


def flat_files(folder: Path | None) -> list[Path]:
    """The flat files in a folder, of any generation."""
    if folder is None or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]


def collection_folder(path: Path, collection: str) -> Path:
    """The folder of a collection; InvalidInputError for a name that is not plainly a file name everywhere."""
    if not isinstance(collection, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", collection):
        raise InvalidInputError(
            f"collection is {collection!r}; expected 1 to 100 of the characters A-Z a-z 0-9 _ - . and no . or - first"
        )
    try:
        if path.exists() and not path.is_dir():
            raise InvalidInputError(f"{path} is a file; a store is a folder")
    except OSError as error:  # a name too long, a folder above it closed to us
        raise StorageError(error.errno, f"cannot look at {path}: {error.strerror}") from error
    return path / collection
