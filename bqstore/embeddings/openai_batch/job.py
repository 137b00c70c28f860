"""How far one job of the Batch API is, in a file that outlives the process. It knows no server, no text and no key."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...errors import CorruptionError, LockedError, StorageError
from ...storage.files import make_file, write_all
from ...storage.lock import WriterLock
from ...storage.platform import make_folder

Line = tuple[int, int]  # one request, a line of the batch's file: the first text, and the one after the last


@dataclass
class Part:
    """One batch of a job; its fields are those of the file.

    Attributes
    ----------
    step : str              "planned", "uploading", "uploaded", "creating", "created": written before it is done
    file, batch : str       the server's ids
    read : bool             it has ended, and its results were read
    lost : dict             why a line has no result, by `id_of` the line
    tokens : int            that the server counted
    """

    name: str
    lines: list[Line]
    step: str = "planned"
    file: str | None = None
    batch: str | None = None
    read: bool = False
    lost: dict[str, str] = field(default_factory=dict)
    tokens: int = 0


class Job:
    """A list of texts for one model of one server; its name is a hash of these.

    Parameters
    ----------
    model_id : strings and numbers    what tells server and model apart
    texts : sequence of str           no two are equal
    """

    def __init__(self, folder: Path, model_id: Sequence[object], texts: Sequence[str]) -> None:
        name = hashlib.sha256(json.dumps(model_id).encode())
        for text in texts:
            name.update(hashlib.sha256(text.encode()).digest())
        self.name = name.hexdigest()
        self.parts: list[Part] = []
        self._folder = folder
        self._path = folder / f"openai-batch-{self.name[:32]}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the job's lock and read its file.

        Raises
        ------
        LockedError       another process or thread works on the job
        CorruptionError   the file is damaged, or of a newer version
        StorageError      the folder cannot be written
        """
        try:
            make_folder(self._folder)
            lock = WriterLock(self._path.with_suffix(".lock"))
            with lock.open() as file:
                try:
                    lock.wait(file, 0)
                except LockedError as error:  # it speaks of a collection
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
        """Replace the file atomically."""
        state = {"format": 1, "job": self.name, "parts": [asdict(part) for part in self.parts]}
        data = json.dumps(state, separators=(",", ":")).encode()
        os.close(make_file(self._path, lambda fd: write_all(fd, data, 0)))

    def _load(self) -> list[Part]:
        try:
            state = json.loads(self._path.read_bytes())
            if state["format"] == 1 and state["job"] == self.name:
                return [Part(**{**part, "lines": [tuple(line) for line in part["lines"]]}) for part in state["parts"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            pass
        raise CorruptionError(
            f"{self._path} is damaged, or of a newer version; restore it, or remove it and submit again"
        )


def id_of(line: Line) -> str:
    """The name of a line in requests and results."""
    return f"{line[0]}-{line[1]}"
