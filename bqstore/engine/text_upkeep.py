"""A text index that is switched on later: built of the texts that are there, in portions, each a commit of its own.

A background thread of any process builds it, and processes share the work. What a killed process has left is built
after the next opening, or at `flush`. Searches for words are refused until the index is complete.
"""

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ..errors import BqstoreError, InvalidInputError, LockedError, NotReadyError
from ..progress import Progress
from ..storage.text_index import TextIndex

if TYPE_CHECKING:
    from .core import Core
    from .engine import Engine

_MOMENT: Final = 0.005  # seconds between two portions, for others to write


class TextUpkeep:
    """The thread that builds the text index of one `Core`."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def is_due(self) -> bool:
        """Whether something is missing in the index."""
        index = TextIndex.of(self._core.publisher.state.head.settings)
        return index is not None and not index.is_whole

    def start(self) -> None:
        """Build in the background what is missing."""
        if self._core.store.read_only or not self.is_due() or (self._thread is not None and self._thread.is_alive()):
            return
        self._stop.clear()
        self._thread = threading.Thread(target=self._work, name="bqstore-words", daemon=True)
        with suppress(RuntimeError):  # no more threads: `flush` does it
            self._thread.start()

    def _work(self) -> None:
        more = True
        while more and not self._stop.wait(_MOMENT):
            try:
                more = self._core.write(self._core.store.grow_text_index)
            except LockedError:  # another process keeps the lock: try again
                continue
            except (BqstoreError, MemoryError):  # it is closed, or the disk is full: the next call raises
                return

    def settle(self, timeout: float) -> None:
        """Build what is missing now."""
        self.stop()
        if self.is_due():
            with Progress("indexing words", self._core.store.head.next_rid) as progress:
                while self._core.write(self._core.store.grow_text_index, timeout):
                    index = TextIndex.of(self._core.store.head.settings)
                    if index is not None:
                        progress(index.built)

    def stop(self) -> None:
        """End the background thread, and wait for it; not under a lock."""
        self._stop.set()
        thread = self._thread
        while thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(0.05)


def set_text_index(engine: "Engine", tokenize: str | None) -> None:
    """Make the index anew with a tokenizer, or drop it (None)."""
    engine.core.texts.stop()
    engine.write(lambda: engine.store.set_text_index(tokenize))
    engine.core.texts.settle(engine.lock_timeout)


def index_to_search(settings: dict[str, object]) -> TextIndex:
    """The index of a collection. Raises InvalidInputError where it has none, NotReadyError while it is being built."""
    index = TextIndex.of(settings)
    if index is None:
        raise InvalidInputError(
            "text is given, and this collection has no text index: open it with text_index=True, or call "
            "set_text_index(), which makes one of the texts that are there"
        )
    if not index.is_whole:
        raise NotReadyError(
            f"the text index is being built ({100 * index.built // max(1, index.until)}%), and would not find all "
            "texts: wait for it with flush(), or search with a vector alone"
        )
    return index


def described(settings: dict[str, object]) -> dict[str, Any] | None:
    """The index of a collection as `CollectionInfo` tells of it."""
    index = TextIndex.of(settings)
    if index is None:
        return None
    return {"tokenize": index.tokenize, **({} if index.is_whole else {"built": index.built / index.until})}
