"""The state of one job of the Batch API, in a file that outlives the process. It holds no text and no API key."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CorruptionError, LockedError, StorageError
from ...storage.files import make_file, write_all
from ...storage.lock import WriterLock
from ...storage.platform import make_folder
from ..text_rows import TextRows

Rows = npt.NDArray[np.int64]
Line = tuple[int, int]  # a request, one line of the batch's file: its first text, and the one after its last


@dataclass
class Part:
    """One batch of a job, with the fields of the state file. `id_of` names its lines."""

    name: str
    lines: list[Line]
    step: str = "planned"  # then "uploading", "uploaded", "creating", "created"; each is saved
    file: str | None = None  # the server's id
    batch: str | None = None  # the server's id
    read: bool = False  # the batch has ended, and its results were read
    lost: dict[str, str] = field(default_factory=dict)  # by line: why it has no result
    tokens: int = 0  # as counted by the server
    rows: dict[str, list[int]] = field(default_factory=dict)  # if adopted: this job's rows of a line's texts, or -1

    def all_rows(self, line: Line) -> Rows:
        """This job's row of each text of a line, -1 if the job does not have it."""
        return np.array(self.rows[id_of(line)]) if self.rows else np.arange(*line)

    def rows_of(self, line: Line) -> Rows:
        """This job's rows of the texts of a line."""
        rows = self.all_rows(line)
        return rows[rows >= 0]

    def expected(self) -> Rows:
        """The rows of texts whose results exist or may still arrive."""
        rows = [self.rows_of(line) for line in self.lines if id_of(line) not in self.lost]
        return np.concatenate([np.empty(0, np.int64), *rows])


class Job:
    """A list of texts for one model of one server, ``model_id``; its name is a hash of both, without duplicates."""

    def __init__(self, folder: Path, model_id: Sequence[object], vectors: TextRows) -> None:
        name = hashlib.sha256(json.dumps(model_id).encode())
        for text in vectors.texts:
            name.update(hashlib.sha256(text.encode()).digest())
        self.name = name.hexdigest()
        self.parts: list[Part] = []
        self._folder, self.vectors = folder, vectors
        self._path = folder / f"openai-batch-{self.name[:32]}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the job's lock and read its file. Raises LockedError, CorruptionError or StorageError."""
        try:
            make_folder(self._folder)
            lock = WriterLock(self._path.with_suffix(".lock"))
            with lock.open() as file:
                try:
                    lock.wait(file, 0)
                except LockedError as error:  # its message is about a collection
                    message = f"another process or thread works on this job in {self._folder}; wait for it"
                    raise LockedError(message) from error
                self.parts = self._load()
                yield
        except OSError as error:
            why = error.strerror or "no file can be made in it"
            raise StorageError(error.errno, f"cannot use {self._folder} for the state of batches: {why}") from error

    def advance(self, part: Part, step: str) -> None:
        """Set a part's step, and save."""
        part.step = step
        self.save()

    def save(self) -> None:
        """Replace the state file atomically; the first time, write the file of keys before it."""
        if not self._path.with_suffix(".keys").exists():
            keys = b"".join(self.vectors.keys)
            _write(self._path.with_suffix(".keys"), keys + hashlib.sha256(keys).digest())
        state = {"format": 1, "job": self.name, "parts": [asdict(part) for part in self.parts]}
        _write(self._path, json.dumps(state, separators=(",", ":")).encode())

    def _load(self) -> list[Part]:
        try:
            state = json.loads(self._path.read_bytes())
            if state["job"] == self.name:
                return _parts_of(state)
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            pass
        raise CorruptionError(
            f"{self._path} is damaged, or of a newer version; restore it, or remove it and submit again"
        )

    def take_over(self, wanted: npt.NDArray[np.bool_], read: bool) -> bool:
        """Adopt the batches of other jobs in the folder that hold ``wanted`` texts, so that these are not sent again.

        Returns whether there are any; one whose creation was not answered has no id yet. ``read`` : also adopt batches
        whose results the other job has read.
        """
        before = len(self.parts)
        row_of = {self.vectors.keys[row]: row for row in np.flatnonzero(wanted).tolist()}
        known = {part.name for part in self.parts}
        for path in sorted(self._folder.glob("openai-batch-*.json")) if row_of else ():
            try:
                parts = [part for part in _parts_of(json.loads(path.read_bytes())) if part.name not in known]
                parts = [part for part in parts if part.step in ("creating", "created") and (read or not part.read)]
                keys = _read_keys(path) if parts else b""
            except (OSError, ValueError, KeyError, TypeError):
                continue  # damaged, or of another version: adopt nothing
            for part in parts:
                taken = Part(part.name, [], part.step, part.file, part.batch)
                for line in part.lines:
                    places = [] if id_of(line) in part.lost else part.all_rows(line).tolist()
                    rows = [row_of.pop(keys[32 * at : 32 * at + 32], -1) if at >= 0 else -1 for at in places]
                    if max(rows, default=-1) >= 0:
                        taken.lines.append(line)
                        taken.rows[id_of(line)] = rows
                self.parts += [taken] if taken.lines else []
        return len(self.parts) > before


def _write(path: Path, data: bytes) -> None:
    os.close(make_file(path, lambda fd: write_all(fd, data, 0)))


def _read_keys(path: Path) -> bytes:
    whole = path.with_suffix(".keys").read_bytes()
    if hashlib.sha256(whole[:-32]).digest() != whole[-32:]:
        raise ValueError
    return whole[:-32]


def _parts_of(state: dict[str, Any]) -> list[Part]:
    if state["format"] != 1:
        raise ValueError
    return [Part(**{**part, "lines": [tuple(line) for line in part["lines"]]}) for part in state["parts"]]


def id_of(line: Line) -> str:
    """The name of a line in requests and results."""
    return f"{line[0]}-{line[1]}"
