"""Any number of texts, batch by batch and in order, with a few batches embedded ahead of the consumer.

The texts are read in the consumer's thread, when it asks for the next batch: a slow consumer holds the requests back,
and a generator is read only as far as needed. What was read ahead is embedded meanwhile, on the loop of `background`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..texts import enumerate_batches
from .embedding_task import EmbeddingTask

Vectors = npt.NDArray[np.float32]
Begin = Callable[[Sequence[str], range], EmbeddingTask]


def stream_batches(
    texts: Iterable[str], begin: Begin, batch: int, ahead: int
) -> Iterator[tuple[int, Sequence[str], Vectors]]:
    """The index of the first text, the texts and the vectors, float32 (m, dim), of each batch, in order.

    An error, of the texts, of reading or embedding them, is raised after the batches before it.
    """
    tasks = _begin_tasks(texts, begin, batch, ahead)
    begun: deque[tuple[int, EmbeddingTask]] = deque()
    failed: Exception | None = None
    more, held = True, 0
    try:
        while True:
            while more and held <= ahead * batch:
                try:
                    start, task = next(tasks)
                    begun.append((start, task))
                    held += len(task.texts)
                except StopIteration:
                    more = False
                except Exception as error:
                    failed, more = error, False
            if not begun:
                break
            start, task = begun[0]
            broken: Exception | None = None
            try:
                vectors = task.finish()
            except Exception as error:
                vectors, broken = task.whole_batches(batch), error
            begun.popleft()
            for at in range(0, len(vectors), batch):
                yield start + at, task.texts[at : at + batch], vectors[at : at + batch]
            if broken is not None:
                raise broken
            held -= len(task.texts)
            del task, vectors
    except Exception:
        for _, task in begun:
            task.cancel()
        for _, task in begun:
            task.settle()
        raise
    if failed is not None:
        raise failed


def _begin_tasks(texts: Iterable[str], begin: Begin, batch: int, ahead: int) -> Iterator[tuple[int, EmbeddingTask]]:
    """Tasks of several batches each, a quarter of those ahead: one request holds what few of them lack in the cache."""
    for start, part in enumerate_batches(texts, batch * max(1, (ahead + 1) // 4)):
        try:
            task = begin(part, range(start, start + len(part)))
        except Exception:
            if len(part) <= batch:
                raise
        else:
            yield start, task
            continue
        for at, one_batch in enumerate_batches(part, batch, start):  # those before the batch that is refused
            yield at, begin(one_batch, range(at, at + len(one_batch)))
