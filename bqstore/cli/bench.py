"""`bqstore bench`: recall and queries per second of a user's store on this machine.

Queries are documents of the store, each excluded from its own result, or come from a file. Results are compared with
exact search by score, so any of several equally near documents counts.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import bqstore

from . import tables
from .commands import Queries
from .console import emit, errors_reported, existing_collection, show
from .files import read_queries
from .options import Json, K, Name, Store, app
from .searching import FilterOption, read_filter

TARGETS = (0.9, 0.95, 0.99)
_NEAR = 1e-5  # relative tolerance of scores: float32 sums in a different order differ
_SEED = 7


@dataclass(frozen=True)
class Row:
    """Recall and speed of searches with one group of settings.

    ``recall`` is None if exact search finds nothing; ``milliseconds`` and ``slowest`` are the median and the 95th
    percentile of single searches; ``alone`` is queries per second one by one on one thread, ``together`` of a batch on
    all threads.
    """

    name: str
    recall: float | None
    milliseconds: float
    slowest: float
    alone: float
    together: float


@app.command()
def bench(
    path: Store,
    collection: Name = None,
    k: K = 10,
    sample: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Documents to use as queries, without a file.")
    ] = 200,
    queries: Queries = None,
    filter_: FilterOption = None,
    as_json: Json = False,
) -> None:
    """Measure this store on this machine: recall and queries per second, as a table.

    With the settings in use, with those that reach 0.9, 0.95 and 0.99, and by exact search. Nothing is changed.
    """
    with errors_reported():
        given = None if queries is None else read_queries(queries)
        wanted = read_filter(filter_)
        with existing_collection(path, collection, read_only=True) as col:
            asked, own = _queries(col, given, sample)
            rows = measured(col, asked, own, k, wanted)
            info = col.info()
        if as_json:
            about = {"collection": info.collection, "documents": info.count, "dim": info.dim, "k": k}
            emit({**about, "queries": len(asked), "rows": rows, "versions": tables.versions_in_use()})
        else:
            show(tables.bench(rows, info, k, len(asked), given is None))


def measured(
    col: "bqstore.Collection",
    queries: NDArray[Any],
    own: list[str] | None,
    k: int,
    wanted: dict[str, Any] | None,
) -> list[Row]:
    """A row for each group of settings; ``own`` are the queries' own ids, excluded from their results."""
    more = k + 1 if own is not None else k
    ways: dict[str, dict[str, Any]] = {"settings in use": {}}
    ways |= {f"target {target:g}": {"target_recall": target} for target in TARGETS}
    ways["exact"] = {"exact": True}
    col.search_ids(queries[:2], more, filter=wanted)  # load the graph and the filter's columns before timing
    truth = col.search_ids(queries, more, filter=wanted, exact=True)
    rows = []
    for name, settings in ways.items():

        def search(vectors: NDArray[Any], threads: int | None, chosen: dict[str, Any] = settings) -> Any:
            return col.search_ids(vectors, more, filter=wanted, threads=threads, **chosen)

        found = search(queries, None)
        recall = _recall(found, truth, own, k)
        rows.append(Row(name, recall, *_times(search, queries)))
    return rows


def _queries(
    col: "bqstore.Collection", given: NDArray[Any] | None, sample: int
) -> tuple[NDArray[Any], list[str] | None]:
    """The queries, and their ids if they are documents."""
    if col.info().originals == "none":
        raise bqstore.InvalidInputError("the collection keeps no originals: there is nothing to compare searches with")
    if given is not None:
        return given, None
    ids = col.ids()
    if len(ids) < 2:
        raise bqstore.InvalidInputError(f"the collection holds {len(ids)} documents; a measurement needs two at least")
    some = np.random.default_rng(_SEED).permutation(len(ids))[:sample]
    records = col.get([ids[place] for place in some.tolist()], with_vectors=True)
    return np.stack([np.asarray(each.vector) for each in records]), [each.id for each in records]


def _recall(found: Any, truth: Any, own: list[str] | None, k: int) -> float | None:
    """The share of the true nearest documents that were found, by score."""
    right = total = 0
    for i in range(len(truth[0])):
        mine = None if own is None else own[i]
        there = _scores(truth[0][i], truth[1][i], mine, k)
        if not there:
            continue
        least = there[-1] - _NEAR * max(1.0, abs(there[-1]))
        right += sum(score >= least for score in _scores(found[0][i], found[1][i], mine, k))
        total += len(there)
    return right / total if total else None


def _scores(ids: NDArray[Any], scores: NDArray[Any], own: str | None, k: int) -> list[float]:
    pairs = zip(ids.tolist(), scores.tolist(), strict=True)
    return [score for id_, score in pairs if id_ is not None and id_ != own][:k]


def _times(search: Callable[[NDArray[Any], int | None], Any], queries: NDArray[Any]) -> tuple[float, ...]:
    """Median and 95th percentile in ms; queries per second one by one on one thread, and of a batch on all threads."""
    seconds = []
    for query in queries:
        begun = time.perf_counter()
        search(query, 1)
        seconds.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    search(queries, None)
    together = time.perf_counter() - begun
    slowest = sorted(seconds)[min(len(seconds) - 1, int(0.95 * len(seconds)))]
    return 1e3 * statistics.median(seconds), 1e3 * slowest, len(queries) / sum(seconds), len(queries) / together
