"""Any number of texts, a batch at a time, in order: a few batches ahead of whoever takes them, and no more.

The texts are read in the thread of whoever takes the vectors, when it asks for the next: a slow one holds the requests
back, and a generator is read only as far as needed. What was read ahead is embedded by the pool meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Executor
from itertools import islice

import numpy as np
import numpy.typing as npt

from ...errors import InvalidInputError
from .embedding_task import Work

Vectors = npt.NDArray[np.float32]
Begin = Callable[[Sequence[str], range], Work]


def in_batches(
    texts: Iterable[str], begin: Begin, pool: Executor, batch: int, ahead: int
) -> Iterator[tuple[int, Sequence[str], Vectors]]:
    """The start, the texts and the vectors, float32 (m, dim), of each batch, in order.

    Several batches are looked up and asked for together, a quarter of those ahead: where few are missing from the
    cache, one request holds what is missing from all of them.

    An error of the texts, of reading them or of asking for them, comes after the batches before it.
    """
    reading = enumerate_batches(texts, batch * max(1, (ahead + 1) // 4))
    begun: deque[tuple[int, Work]] = deque()
    unread: Iterator[tuple[int, list[str]]] = iter(())  # batches of a part that is refused as a whole
    failed: BaseException | None = None
    more, held = True, 0
    try:
        while True:
            while more and held <= ahead * batch:
                part: list[str] = []
                try:
                    start, part = next(unread, None) or next(reading, (0, []))
                    if part:
                        work = begin(part, range(start, start + len(part)))
                        begun.append((start, work))
                        held += len(part)
                        work.submit(pool)
                    more = bool(part)
                except Exception as error:
                    if len(part) > batch:
                        unread = enumerate_batches(part, batch, start)
                    else:
                        failed, more = error, False
            if not begun:
                break
            start, work = begun[0]
            broken: Exception | None = None
            try:
                vectors = work.finish()
            except Exception as error:
                vectors, broken = work.beginning(batch), error
            work.close()
            begun.popleft()
            for at in range(0, len(vectors), batch):
                yield start + at, work.texts[at : at + batch], vectors[at : at + batch]
            if broken is not None:
                raise broken
            held -= len(work.texts)
            del work, vectors
    finally:
        for _, work in begun:
            work.close()
    if failed is not None:
        raise failed


def enumerate_batches(texts: Iterable[str], batch: int, start: int = 0) -> Iterator[tuple[int, list[str]]]:
    """The texts in lists of ``batch``, each with the index of its first, counted from ``start``."""
    check_iterable(texts, "texts")
    reading = iter(texts)
    while part := list(islice(reading, batch)):
        yield start, part
        start += len(part)


def check_iterable(given: object, name: str) -> None:
    """Raise InvalidInputError unless it is one, of more than characters."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidInputError(f"{name} is of type {type(given).__name__}; a list, or another iterable, was expected")


def listed(texts: Iterable[str]) -> Sequence[str]:
    """The texts as a list; one string as it is, for `check_texts` to refuse. Raises InvalidInputError."""
    if isinstance(texts, str):
        return texts
    check_iterable(texts, "texts")
    return list(texts)


class Alongside:
    """What belongs to the texts one by one, read as they are; ``None`` belongs to all of them."""

    def __init__(self, values: Iterable[object] | None, name: str) -> None:
        if values is not None:
            check_iterable(values, name)
        self._said = len(values) if isinstance(values, Sized) else None
        self._values, self._name = None if values is None else iter(values), name

    def check_length(self, n: int) -> None:
        """Raise InvalidInputError if there are more or fewer than the ``n`` texts, where that is known before."""
        if self._said is not None and self._said != n:
            raise InvalidInputError(f"there are {n} texts; {self._name} has {self._said}")

    def take(self, n: int, start: int) -> list[object] | None:
        """The next ``n``. Raises InvalidInputError if there are fewer."""
        if self._values is None:
            return None
        part = list(islice(self._values, n))
        if len(part) < n:
            raise InvalidInputError(f"{self._name} ends at {start + len(part)}; there are more texts than that")
        return part

    def check_end(self, n: int) -> None:
        """Raise InvalidInputError if there are more than the ``n`` texts."""
        if self._values is not None and next(self._values, self) is not self:
            raise InvalidInputError(f"there are {n} texts; {self._name} has more")
