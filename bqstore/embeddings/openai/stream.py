"""Embeds any number of texts, batch by batch and in order, with a few batches ahead of the consumer.

The texts are read in the consumer's thread, when it asks for the next batch: a slow consumer delays the requests, and
a generator is read only as far as needed. Batches read ahead are embedded meanwhile, on the loop of `background`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..base import EmbeddedBatches
from ..texts import enumerate_batches
from .embedding_task import EmbeddingTask, stop

Begin = Callable[[Sequence[str], int], EmbeddingTask]


def stream_batches(texts: Iterable[str], begin: Begin, batch: int, ahead: int) -> EmbeddedBatches:
    """For each batch in order: the index of its first text, its texts, and its vectors, float32 (m, dim).

    An error in reading, checking or embedding texts is raised after the batches before it.
    """
    tasks = _begin_tasks(texts, begin, batch, ahead)
    begun: deque[EmbeddingTask] = deque()
    ended: Exception | None = None
    try:
        while True:
            while ended is None and sum(len(task.given) for task in begun) <= ahead * batch:
                try:
                    begun.append(next(tasks))
                except Exception as error:  # or StopIteration
                    ended = error
            if not begun:
                break
            task, broken = begun[0], None
            try:
                vectors = task.finish()
            except Exception as error:
                vectors, broken = task.whole_batches(batch), error
            for at in range(0, len(vectors), batch):
                yield task.start + at, task.given[at : at + batch], vectors[at : at + batch]
            begun.popleft()
            if broken is not None:
                raise broken
            del task, vectors
    except BaseException as error:  # including Ctrl-C, and a consumer that stops
        stop(begun, error)
        raise
    if ended is not None and not isinstance(ended, StopIteration):
        raise ended


def _begin_tasks(texts: Iterable[str], begin: Begin, batch: int, ahead: int) -> Iterator[EmbeddingTask]:
    """Tasks of several batches each, a quarter of ``ahead``, so that texts missing in the cache share requests."""
    for start, part in enumerate_batches(texts, batch * max(1, (ahead + 1) // 4)):
        task = None
        try:
            task = begin(part, start)
        except Exception:
            if len(part) <= batch:
                raise
        if task is not None:
            yield task
        else:  # one by one, up to the batch that is refused
            for at, one_batch in enumerate_batches(part, batch, start):
                yield begin(one_batch, at)
