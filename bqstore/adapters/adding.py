"""Adding texts to a framework's store: all are checked, then embedded and added batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BqstoreError, InvalidInputError, UnknownKeywordError
from ..validate import check_documents, refuse_private_keys
from .async_calls import Steps, Waits

if TYPE_CHECKING:
    from ..collection import Collection


class Batch(NamedTuple):
    """Texts that are embedded in one call and added in one commit."""

    texts: list[str]
    metadatas: list[Mapping[str, Any] | None]
    ids: list[str | None]
    expires_at: list[Any] | None
    vectors: Sequence[Any] | None


def batches_of(
    texts: Iterable[str],
    metadatas: Iterable[Mapping[str, Any] | None] | None = None,
    ids: Iterable[str | None] | None = None,
    batch_size: int | None = None,
    expires_at: Any = None,
    *,
    vectors: Sequence[Any] | None = None,
    unknown: Iterable[str] = (),
) -> list[Batch]:
    """Check all that an adapter's store was given to add, and cut it into batches.

    Raises InvalidInputError where the collection would refuse a text, an id or metadata, and UnknownKeywordError for
    any keyword in ``unknown``.

    >>> import bqstore
    >>> [batch.texts for batch in bqstore.batches_of(["a", "b", "c"], batch_size=2)]
    [['a', 'b'], ['c']]
    """
    for name in unknown:
        raise UnknownKeywordError(f"adding has no keyword {name!r}; known: metadatas, ids, batch_size, expires_at")
    if batch_size is not None and (
        isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1
    ):
        raise InvalidInputError(f"batch_size is {batch_size!r}; expected an integer of at least 1, or None")
    all_texts = listed("texts", texts)
    n = len(all_texts)
    all_metadatas: list[Mapping[str, Any] | None] = listed("metadatas", metadatas, n)
    all_ids = listed("ids", ids, n)
    for i, text in enumerate(all_texts):
        if not isinstance(text, str):  # None too: a document without text is stored, but it cannot be embedded
            raise InvalidInputError(f"text {i} is of type {type(text).__name__}; expected a string")
    times = None if expires_at is None else _times(expires_at, n)
    check_documents(n, all_ids, all_texts, all_metadatas, times)
    for i, metadata in enumerate(all_metadatas):
        refuse_private_keys(metadata or {}, f"metadata {i}")
    step = batch_size or max(n, 1)
    return [
        Batch(
            all_texts[at : at + step],
            all_metadatas[at : at + step],
            all_ids[at : at + step],
            None if times is None else times[at : at + step],
            None if vectors is None else vectors[at : at + step],
        )
        for at in range(0, n, step)
    ]


def add_batches(
    collection: Collection, batches: Iterable[Batch], embed: Callable[[list[str]], Waits]
) -> Steps[list[str]]:
    """Embed batches that bring no vectors and add each, in steps; return the ids. For adapters.

    Any error gets an attribute ``added``, the ids that were added before it. One of bqstore's own also says which of
    all texts it is about.

    >>> import bqstore
    >>> two = bqstore.batches_of(["a", "b"], ids=["1", "2"], batch_size=1, vectors=[[1.0, 0.0], [0.0]])
    >>> steps = bqstore.add_batches(bqstore.open(), two, embed=None)
    >>> try:
    ...     bqstore.in_steps(lambda: steps)()
    ... except bqstore.InvalidInputError as error:
    ...     print(str(error).rpartition("; ")[2], error.added)
    it is text 1 of all, in a batch after 1 texts, which are stored ['1']
    """
    added: list[str] = []
    for batch in batches:
        with _telling(added):
            vectors = (yield embed(batch.texts)) if batch.vectors is None else batch.vectors
            add = partial(collection.add, vectors, batch.ids, batch.texts, batch.metadatas, expires_at=batch.expires_at)
            added += yield add
    return added


def listed(what: str, given: Any, n: int | None = None) -> list[Any]:
    """Return an argument of an adapter's call as a list, of ``n`` entries if n is given; None becomes a list of n None.

    >>> import bqstore
    >>> bqstore.listed("ids", iter("ab"), 3)
    Traceback (most recent call last):
    bqstore.errors.InvalidInputError: ids has 2 entries for 3 texts; expected one each
    """
    if given is None and n is not None:
        return [None] * n
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidInputError(f"{what} is of type {type(given).__name__}; expected a list")
    entries = list(given)
    if n is not None and len(entries) != n:
        raise InvalidInputError(f"{what} has {len(entries):,} entries for {n:,} texts; expected one each")
    return entries


@contextmanager
def _telling(added: Sequence[str]) -> Iterator[None]:
    """Say in an error of a batch which text of all it is about, and what the batches before have stored."""
    try:
        yield
    except BaseException as error:
        with suppress(AttributeError, TypeError):  # an error of another library that takes no attributes
            error.added = list(added)  # type: ignore[attr-defined]
        if added and isinstance(error, BqstoreError):
            which = ""
            if isinstance(error, InvalidInputError) and error.index is not None:
                error.index += len(added)
                which = f"it is text {error.index} of all, "
            place = f"{'in' if which else 'it is in'} a batch after {len(added):,} texts, which are stored"
            error.args = (f"{error}; {which}{place}",)
        raise


def _times(given: Any, n: int) -> list[Any]:
    """A time for each text; seconds are counted from when its batch is added."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        return [given] * n
    return list(given)
