"""Ids and metadata of texts that are embedded batch by batch, and the progress line."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from typing import Any

from ..arguments import check_int
from ..errors import InvalidInputError
from ..progress import Progress
from .texts import check_iterable

Report = Callable[[int, Any], None]

STREAM_BATCH = 1_000
_LARGEST_BATCH = 1_000_000
_QUIET = 2.0  # seconds before the progress line appears


class ValuesPerText:
    """One id or metadata per text, read batch by batch like the texts; None if no values are given."""

    def __init__(self, values: Iterable[object] | None, name: str, n: int | None = None) -> None:
        """Raise InvalidInputError if the number of values is known and is not ``n``, the number of texts."""
        if values is not None:
            check_iterable(values, name)
        if n is not None and isinstance(values, Sized) and len(values) != n:
            raise InvalidInputError(f"there are {n} texts; {name} has {len(values)}")
        self._values, self._name = None if values is None else iter(values), name

    def take(self, n: int, start: int) -> list[object] | None:
        """The next ``n`` values. Raises InvalidInputError if there are fewer."""
        if self._values is None:
            return None
        part = list(islice(self._values, n))
        if len(part) < n:
            raise InvalidInputError(f"{self._name} ends at {start + len(part)}; there are more texts than that")
        return part

    def check_end(self, n: int) -> None:
        """Raise InvalidInputError if there are more than ``n`` values."""
        if self._values is not None and next(self._values, self) is not self:
            raise InvalidInputError(f"there are {n} texts; {self._name} has more")


def check_batch(batch: object) -> int:
    """The number of texts in a batch. Raises InvalidInputError."""
    return check_int("batch", batch, 1, _LARGEST_BATCH)


@contextmanager
def progress_line(price: Callable[[], float | None] = lambda: None) -> Iterator[Report]:
    """A progress line on the terminal: texts done, texts per second, price so far, time left. In a notebook, a bar.

    ``price`` returns the US$ spent since the embedder was made, or None if unknown.
    """
    bar = _bar_of_a_notebook()
    if bar is not None:
        with bar:

            def show(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show
        return
    price_before, first = price(), None

    def describe(done: int, total: int | None, seconds: float) -> str:
        rate = (done - (first or 0)) / seconds if seconds > 0 else 0.0
        parts = [f"{rate:,.0f} texts/s"]
        if price_before is not None:
            parts.append(f"${(price() or 0.0) - price_before:,.4f}")
        if total and rate > 0:
            parts.append(f"{(total - done) / rate:,.0f} s left")
        return ", ".join(parts)

    with Progress("embedding", describe=describe, quiet=_QUIET) as line:

        def report(done: int, total: int | None) -> None:
            nonlocal first
            if first is None:  # texts found in the cache do not count for the rate
                first = done
            line(done, total)

        yield report


def _bar_of_a_notebook() -> Any:
    """A tqdm bar in a notebook, whose stderr is no terminal; None elsewhere, or without tqdm."""
    if "ipykernel" in sys.modules:
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.simplefilter("ignore")  # where the notebook has no widgets, the bar is text
            return import_module("tqdm.auto").tqdm(desc="embedding", unit=" texts", delay=_QUIET)
    return None
