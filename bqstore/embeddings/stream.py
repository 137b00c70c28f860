"""Any number of texts, a batch at a time, in order: a few batches ahead of whoever takes them, and no more.

The texts are read in the thread of whoever takes the vectors, when it asks for the next: a slow one holds the requests
back, and a generator is read only as far as needed. What was read ahead is embedded by the pool meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import islice

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInputError
from .work import Work

Vectors = npt.NDArray[np.float32]
Begin = Callable[[Sequence[str], range], Work]


def in_batches(
    texts: Iterable[str], begin: Begin, pool: Executor, batch: int, ahead: int
) -> Iterator[tuple[int, Sequence[str], Vectors]]:
    """The start, the texts and the vectors, float32 (m, dim), of each batch, in order.

    An error of the texts, or of reading them, comes after the batches before it.
    """
    reading = enumerate_batches(texts, batch)
    begun: deque[tuple[int, Work]] = deque()
    failed: BaseException | None = None
    more = True
    try:
        while True:
            while more and len(begun) <= ahead:
                try:
                    start, part = next(reading, (0, []))
                    if part:
                        work = begin(part, range(start, start + len(part)))
                        begun.append((start, work))
                        work.submit(pool)
                    more = bool(part)
                except Exception as error:
                    failed, more = error, False
            if not begun:
                break
            start, work = begun[0]
            vectors = work.finish()
            work.close()
            begun.popleft()
            yield start, work.texts, vectors
            del work, vectors
    finally:
        for _, work in begun:
            work.close()
    if failed is not None:
        raise failed


def enumerate_batches(texts: Iterable[str], batch: int) -> Iterator[tuple[int, list[str]]]:
    """The texts in lists of ``batch``, each with the index of its first."""
    if isinstance(texts, str):
        raise InvalidInputError("texts is one string; a list, or another iterable, of texts was expected")
    reading, start = iter(texts), 0
    while part := list(islice(reading, batch)):
        yield start, part
        start += len(part)


class Alongside:
    """What belongs to the texts one by one, read as they are; ``None`` belongs to all of them."""

    def __init__(self, values: Iterable[object] | None, name: str) -> None:
        self._values, self._name = None if values is None else iter(values), name

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
