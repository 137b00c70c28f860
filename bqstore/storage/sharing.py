"""A folder among processes: the lock of its writers, how they hear of each other's commits, who keeps snapshots.

Everything here may be happening in another process at the same time. `Store` adds the commits.
"""

import io
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

from numpy.typing import NDArray

from ..errors import BqstoreError, FolderReplacedError, LockedError, StorageError
from . import descriptors, head_table, platform, reserve
from . import graph_snapshot as snapshots
from .catalogue import Catalogue
from .files import storage_errors
from .graph_snapshot import Mapped, Snapshot
from .head import Head
from .key_values import NAME as ENTRIES
from .lock import WriterLock, unlock_and_close
from .place import Place
from .reading import Reading
from .sequence import CommitNumber
from .snapshot_format import Header


class Sharing(Reading):
    """The part of a store that concerns other processes which have it open.

    Attributes
    ----------
    is_alone : bool         nobody else can commit: in memory, or opened with ``exclusive``
    lock_timeout : float    seconds to wait for the lock
    number : CommitNumber   tells that somebody has committed
    """

    def __init__(
        self,
        catalogue: Catalogue,
        head: Head,
        lock: WriterLock | None,
        held: io.FileIO | None,
        lock_timeout: float,
        place: Place | None,
    ) -> None:
        folder = None if place is None else place.path
        super().__init__(folder, catalogue, head, read_only=folder is not None and lock is None)
        self._lock, self.lock_timeout, self._place = lock, lock_timeout, place
        self.is_alone = folder is None or held is not None
        self.number = CommitNumber(None, write=False)
        self._snapshots: tuple[Mapped, ...] = ()  # mapped ones, to check that nobody has cut them
        self._until_closed = ExitStack()
        if held is not None:
            self.hold(held)
        if place is not None:
            self._until_closed.callback(place.close)
            self.flat.entries, self.catalogue.check_place = place, self.check_place
            place.wake = self.catalogue.wake = self.use
            self._until_closed.callback(descriptors.forget, self)
            self.number = CommitNumber(place, write=False)
            if lock is not None:
                lock.entries = place

    def hold(self, file: io.FileIO) -> None:
        """Keep a file open until `close`."""
        self._until_closed.callback(unlock_and_close, file)

    def check_place(self) -> None:
        """Raise FolderReplacedError unless the folder at the path is the one that was opened."""
        if self._place is not None:
            self._place.check()

    def check_snapshots(self) -> None:
        """Raise CorruptionError if a snapshot that is mapped was cut: reading it would end the process."""
        if self.folder is not None and self._snapshots:
            self._snapshots = tuple(each for each in self._snapshots if each.is_there(self.folder))

    def look(self) -> None:
        """Check the folder's place, mapped snapshots, and SEQ; to be called now and then.

        Raises FolderReplacedError, StorageError, CorruptionError where a snapshot was cut.
        """
        self.use()
        self.check_place()
        self.check_snapshots()
        self.number.refresh()
        self._rest_folder()

    @property
    def place(self) -> tuple[int, int] | None:
        """What tells the folder from every other of this machine; None in memory."""
        return None if self._place is None else self._place.folder

    def use(self) -> None:
        """Tell `descriptors` that this store is in use, so that others may have to rest."""
        if self._place is not None:
            descriptors.used(self)

    def rest(self) -> bool:
        """Give back all descriptors until one is needed; False if one is in use, or the folder would not be recognized.

        Descriptors of held locks are kept. For any thread, at any moment.
        """
        if self._place is not None and self._place.is_closed:
            return True  # it holds nothing, and need not be asked again
        if self._place is None or not self._place.can_rest or self._is_poisoned() or not self.catalogue.rest():
            return False
        for file in self.flat.both():
            file.rest()
        self._place.rest()
        return True

    @abstractmethod
    def _is_poisoned(self) -> bool:
        """Whether a sync or commit has failed."""

    # ---- the lock

    def lock_file(self) -> AbstractContextManager[io.FileIO | None]:
        """The file to hold by ``with`` during `wait_for_lock` and the write; closing it earlier gives the lock back."""
        if self.is_alone or self._lock is None:
            return nullcontext()
        if self._place is not None:
            self._place.check_if_awake()
        return self._lock.open()

    def refuse(self, waited: float) -> None:
        """Raise LockedError for a thread whose time is up while another of this process still waits for the lock."""
        with self.lock_file() as file:
            if file is not None and self._lock is not None:
                raise self._lock.refused(file, waited)

    def give_lock_back(self, file: io.FileIO | None) -> None:
        """Let others write."""
        if file is not None:
            unlock_and_close(file)
        self._rest_folder()

    def _rest_folder(self) -> None:
        """Give back the folder's descriptor: a write, or the check each half second, can open it again."""
        if self._place is not None:
            self._place.rest()

    def wait_for_lock(self, file: io.FileIO | None, timeout: float | None = None) -> None:
        """Wait until nobody else writes. Raises LockedError after ``timeout`` (None: `lock_timeout`) seconds."""
        if file is not None and self._lock is not None:
            self._lock.wait(file, self.lock_timeout if timeout is None else timeout)

    @abstractmethod
    def check_writable(self) -> None:
        """Raise unless this store may be written now."""

    # ---- who may change what

    def _sweep(self) -> None:
        """Remove what no commit refers to; under the lock.

        That is files of other generations, unfinished ones, and snapshots of later commits than the head, which this
        history does not have.
        """
        self.check_place()
        self.flat.sweep(self.head.generation)
        if self.flat.entries is not None:
            with suppress(BqstoreError), self.duty("SAVE") as alone:
                if alone:  # else another process is writing one, and will sweep
                    snapshots.sweep(self.flat.entries, self.head.generation, 0, self.head.seq)

    @contextmanager
    def duty(self, name: str) -> Iterator[bool]:
        """Whether this process is the only one that does this now: "SAVE" snapshots, "MEASURE" recall."""
        if self.folder is None:
            yield True
            return
        duty = WriterLock(self.folder / name, entries=self.flat.entries)
        with storage_errors("close SAVE"), _opened(duty) as file:
            try:
                duty.wait(file, 0)
            except LockedError:
                yield False
                return
            try:
                yield True
            finally:
                platform.unlock(file.fileno())

    def _sweep_flat(self) -> None:
        """Remove the flat files of other generations, unless another folder stands there now."""
        with suppress(FolderReplacedError):
            self.check_place()
            self.flat.sweep(self.head.generation)

    def disk_bytes(self) -> tuple[int, int]:
        """Bytes of all files of the collection, and of the catalogue with its log; 0 in memory."""
        if self.flat.entries is None:
            return 0, 0
        records = sum(file.header_length + self.head.n_slots * file.layout.record_bytes for file in self.flat.both())
        with storage_errors(f"look at the files of {self.folder}"):
            kept = snapshots.n_bytes(self.flat.entries)
            kept += sum(self.flat.entries.size(name) for name in (ENTRIES, f"{ENTRIES}-wal"))
        return records + kept + sum(self.catalogue.bytes()), sum(self.catalogue.bytes())

    # ---- snapshots

    def write_snapshot(
        self,
        n: int,
        seq: int,
        numbers: Mapping[str, int],
        arrays: Mapping[str, NDArray[Any]],
        generation: int | None = None,
    ) -> int:
        """Store derived state as a snapshot and remove older ones. Returns its size, or 0 if none was written.

        Parameters
        ----------
        n, seq : int            slots covered, and the commit it was taken at
        numbers : dict          int64, under any names
        arrays : dict           any shape, dtypes of `snapshot_format.DTYPES`
        generation : int        of that commit, the head's if None; nothing is written if a newer one was committed

        Raises StorageError if the disk refuses. That does not poison the store, and the older snapshot stays.
        """
        entries = self.flat.entries
        if entries is None:
            return 0
        self.check_writable()
        with self.duty("SAVE") as alone:
            with self.catalogue.reading() as connection:
                last = head_table.reread_head(connection, self.catalogue.name, self.head)
            if not alone or last.generation != self.head.generation or generation not in (None, last.generation):
                return 0
            codes = snapshots.fingerprint(self.codes, n)
            header = Header(last.generation, last.store_id, n, seq, codes, numbers, ())
            size = snapshots.write(entries, header, arrays, self.check_place)
            self.check_place()
            snapshots.sweep(entries, last.generation, seq, last.seq)
            reserve.keep(entries, lambda: self.disk_bytes()[0])
            return size

    def newest_snapshot(self) -> tuple[int, int]:
        """Slots and commit of the newest snapshot of the head's generation, by its header alone; (0, 0) without one."""
        return (0, 0) if self.flat.entries is None else snapshots.newest(self.flat.entries, self.head)

    def read_snapshot(self) -> tuple[Snapshot | None, str | None]:
        """The newest snapshot of the head's commit or an earlier one, verified; else None, and the reason.

        The reason is None if there is no snapshot. Verifying reads every byte, at some 7 GB/s.
        """
        if self.flat.entries is None:
            return None, None
        snapshot, reason = snapshots.read(self.flat.entries, self.head, self.codes)
        if snapshot is not None:
            self._snapshots = (*self._snapshots, snapshot.mapped)
        return snapshot, reason


def _opened(duty: WriterLock) -> io.FileIO:
    """The locked file of a duty (see `Sharing.duty`), which is to keep derived data."""
    try:
        return duty.open()
    except StorageError as error:
        words = f"{error.strerror}; nothing is lost: it can be made again"
        raise StorageError(error.errno, words) from error
