"""The graph under construction: its arrays, and how batches of new nodes are linked on the graph before them.

One writer at a time. A search takes the tuple `HnswGraph.view` and keeps it, whatever happens here. Levels are a hash
of (seed, ordinal), and a batch depends only on the graph before it: so the same codes, added in the same calls, give
the same bytes on any number of threads. Knows codes, no files, ids or originals.
"""

from __future__ import annotations  # else those of inner functions are evaluated in each call

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import dispatch as kernels
from ..kernels import layout
from ..kernels.layout import Codes, Graph, Scratch
from .memory import allocate
from .planner import INEXACT_COPIES, NARROW, SLIGHT, WIDE
from .quantizer import Quantizer, lengths_of, squares_of
from .scratch import ScratchPool, Sizes, make_scratch
from .splitmix import splitmix64
from .threads import Workers, drain, together
from .trial_walks import Originals, Trial, missed_by_narrow_walks, missed_by_walks

U64 = NDArray[np.uint64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
_Back = tuple[I32, NDArray[np.int64], I32]

SEED = 0x6271_7374
_MAX_LEVEL = 24
# A batch has at most a sixteenth of the nodes of the graph, because the nodes of a batch are not linked to each other.
# With a fiftieth recall is no better, and threads have less to do.
_PART = 16
_COPIES_AT_ONCE = 64  # but at least so many where most nodes are copies: these are found within a batch, too
_BATCH = 8192  # nodes at most: a batch holds the writer's lock, and a KeyboardInterrupt waits for its kernels
_PORTION = 8  # nodes that a thread takes at a time, at least: smaller portions cost more than waiting for the others
# The seeds, nodes that a search may begin at: one in so many, within bounds. They are chosen anew when the graph has
# grown by an eighth, or before; which they are depends only on the number of nodes.
_SEEDED_FROM, _SEED_EVERY, _FEWEST_SEEDS, _MOST_SEEDS = 1024, 100, 32, 1024
# Walks are tried from so many nodes on, whenever they have grown by half; from the second number on, by an eighth.
_TRIED_FROM, _OFTEN_FROM = 2048, 4096
_MEASURED = 2048  # codes that the reach of lifts is measured on
_REACHED = 0.9  # the reach is this quantile of their squared lengths; longer vectors count as if they had that length
_ALIKE = 0.05  # with a smaller relative deviation of lengths, products order as distances do, and nothing is lifted
_CLOSE = 0.01  # corrections with a smaller relative difference are of the same vector, up to rounding


class HnswGraph:
    """A graph under construction.

    Attributes
    ----------
    view : Graph    what searches use; its arrays are written behind ``view.n``, and rows of linked nodes in place
    alike : int     inexact copies: nodes whose code equals that of their graph node in signs only, not in corrections
    missed : int    how many of a thousand nearest codes wide walks missed: in the last trial, or on average over all
                    trials, weighted by the nodes that came with each, whichever is more
    narrow : int    likewise, how many of a thousand codes found by wide walks those of the usual width missed
    times : int     factor for the usual width: 2 or ``WIDE`` if walks of that width miss too much, else 1
    """

    ARRAYS = ("links", "upper", "first", "levels", "same")

    def __init__(self, m: int, ef_construct: int, seed: int = SEED) -> None:
        self.m, self.ef_construct, self.seed = m, ef_construct, seed
        self.view = Graph(
            np.zeros((0, 2 * m), np.int32),
            np.zeros((0, m), np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.uint8),
            np.zeros(0, np.int32),
            n=0,
            entry=0,
            top=0,
        )
        self._rows = 0  # of ``view.upper``, in use
        self._copies = self.alike = 0  # nodes without links of their own
        self._measured, self._reach = 0, 0.0  # how many codes the reach of lifts was measured on, and the reach
        self._pool = ScratchPool()
        self._seeded = 0  # nodes that the seeds are a sample of
        self.missed = self.narrow = 0
        self._tried = 0  # how many nodes there were when the last trial began
        self.times = 1
        self._lost, self._counted = np.zeros(2, np.int64), 0  # misses of earlier trials, over how many nodes
        self._trial = Trial()

    def __len__(self) -> int:
        return self.view.n

    def parts(self) -> tuple[dict[str, int], dict[str, NDArray[np.generic]]]:
        """What `restore` needs: integers, and the arrays named in ``ARRAYS``."""
        view, n = self.view, self.view.n
        numbers = {"m": self.m, "ef_construct": self.ef_construct, "seed": self.seed}
        numbers |= {"entry": view.entry, "top": view.top, "rows": self._rows, "alike": self.alike}
        numbers |= {"missed": self.missed, "narrow": self.narrow, "tried": 0 if self._trial.goes_on else self._tried}
        numbers["times"] = self.times
        upper, same = _drop_later_links(view.upper[: self._rows], n), view.same[:n]
        while (later := same >= n).any():  # leave nodes of an interrupted batch out of the lists
            same = np.where(later, view.same[np.where(later, same, 0)], same)
        arrays = (_drop_later_links(view.links[:n], n), upper, view.first[:n], view.levels[:n], same)
        return numbers, dict(zip(self.ARRAYS, arrays, strict=True))

    def restore(self, numbers: Mapping[str, int], arrays: Mapping[str, NDArray[np.generic]], n: int) -> None:
        """Become the graph of n nodes whose `parts` are given; the arrays are copied, links to huge pages.

        Raises ValueError for other settings or a graph that breaks an invariant, and KeyError for a missing part. Only
        the numbers ``alike``, ``missed``, ``narrow``, ``tried`` and ``times`` may be missing, which older versions did
        not write; they are 0 then, and ``times`` is 1, until `count` or a trial.
        """
        for name, own in (("m", self.m), ("ef_construct", self.ef_construct), ("seed", self.seed)):
            if numbers[name] != own:
                raise ValueError(f"{name} is {numbers[name]}, not {own}")
        kinds = (np.int32, np.int32, np.int32, np.uint8, np.int32)
        shapes = ((n, 2 * self.m), (numbers["rows"], self.m), (n,), (n,), (n,))
        copies = []
        for name, kind, shape in zip(self.ARRAYS, kinds, shapes, strict=True):
            given = arrays[name]
            if given.shape != shape or given.dtype != kind:
                raise ValueError(f"{name} is {given.dtype} {given.shape}, not {np.dtype(kind)} {shape}")
            columns = shape[1] if len(shape) > 1 else 1
            copies.append(allocate(shape[0], columns, kind).reshape(shape))
            copies[-1][:] = given
        links, upper, first, levels, same = copies
        view = Graph(links, upper, first, levels, same, n, int(numbers["entry"]), int(numbers["top"]))
        faults = int(kernels.check_graph(view))
        if faults:
            raise ValueError(f"{faults:,} rows of links are faulty" if faults > 0 else "its entry point is not in it")
        copied, alike = int((same >= 0).sum()), int(numbers.get("alike", 0))
        if not 0 <= alike <= copied:
            raise ValueError(f"{alike:,} of {copied:,} copies are counted as inexact")
        if not 1 <= (times := int(numbers.get("times", 1))) <= WIDE:
            raise ValueError(f"walks are said to be {times:,} times as wide as usual")
        self.view, self._rows, self._copies, self.alike = view, int(numbers["rows"]), copied, alike
        missed, tried, narrow = (int(numbers.get(name, 0)) for name in ("missed", "tried", "narrow"))
        if "times" not in numbers and narrow <= NARROW:
            narrow = 0  # of a few queries, which tell little; nothing came of it
        self.begin_with(missed, tried, narrow)
        self.times = times
        self._seeded = 0

    def begin_with(self, missed: int, tried: int, narrow: int = 0) -> None:
        """Take over what a trial of other graphs of these nodes has found, when there were ``tried`` of them."""
        self.missed, self.narrow, self._tried, self.times = missed, narrow, tried, 1
        self._lost, self._counted, self._trial = np.array([missed, narrow]) * len(self), len(self), Trial()

    def sample(self, words: U64, width: int) -> None:
        """Choose the seeds anew, if many nodes have come since; words : uint64 (>= n, columns)."""
        n = len(self)
        least = max(0, n.bit_length() - 4)
        of = n >> least << least
        if of == self._seeded or of < _SEEDED_FROM:
            return
        self._seeded = of
        if self.alike > INEXACT_COPIES * n:  # scanned; besides, a walk that begins among many copies ends too early
            self.view = self.view._replace(seeds=layout.NO_SEEDS, seed_signs=layout.NO_SIGNS)
            return
        wanted = max(_FEWEST_SEEDS, min(_MOST_SEEDS, of // _SEED_EVERY))
        # picked by a hash, since data may come in a regular order: every hundredth document may be of one kind
        picked = np.unique(splitmix64(self.seed, 0, wanted) % np.uint64(of)).astype(np.int32)
        seeds = picked[self.view.links[picked, 0] >= 0]  # copies have no links
        signs = np.ascontiguousarray(words[seeds, :width])
        self.view = self.view._replace(seeds=seeds, seed_signs=signs)

    def count(self, words: U64, quantizer: Quantizer) -> None:
        """Count the inexact copies of a restored graph; words : uint64 (>= n, columns)."""
        heads = _list_heads(self.view.same[: self.view.n])
        copies = np.flatnonzero(heads != np.arange(len(heads)))
        self.alike = _count_inexact(words, quantizer.arrays, copies, heads[copies])

    def link(
        self,
        words: U64,
        stop: int,
        workers: Workers,
        quantizer: Quantizer | None = None,
        originals: Originals | None = None,
        held: I64 | None = None,
    ) -> int:
        """Link the next batch of codes, at most up to ordinal ``stop``; return the number of nodes after it.

        An exception or a KeyboardInterrupt leaves the graph as it was before the batch: searches skip links to nodes
        behind ``view.n``, and linking the batch again accounts for them.

        Parameters
        ----------
        words : uint64 (>= stop, columns)
        workers : Workers       how many kernel calls may run at once
        quantizer : Quantizer   made the codes; None: all words are signs
        originals : Originals   to try walks with; the graph does not depend on them
        held : int64 (m,)       the ordinals that there are originals of, ascending; None: of all
        """
        view = self.view
        start = view.n
        if start >= stop:
            return start
        quantizer = Quantizer.signs(64 * words.shape[1]) if quantizer is None else quantizer
        self._try(words, stop, quantizer, originals, held)
        arrays = self._reaching(words, quantizer, start or min(stop, _MEASURED))
        codes = Codes(words, stop, arrays)
        _unlink_later_copies(view.same, start)
        part = max((start - self._copies) // _PART, min(start // _PART, _COPIES_AT_ONCE))
        end = min(stop, start + max(1, min(part, _BATCH)))
        levels = levels_of(self.seed, start, end, self.m)
        if start == 0:
            self._grow(stop, levels)
            self._rows = 0  # a KeyboardInterrupt may have come between the last two lines of this branch
            self._set_nodes(0, levels)
            self.view.links[0] = self.view.same[0] = -1
            self.view.upper[: int(levels[0])] = -1
            self._rows = int(levels[0])  # before the node is published: its rows must not be used again
            self.view = self.view._replace(n=1, entry=0, top=int(levels[0]))
            return 1
        higher = np.flatnonzero(levels > view.top)
        if len(higher):  # end the batch with a node that starts a new top level, so that the next batch can find it
            end = start + int(higher[0]) + 1
            levels = levels[: end - start]
        self._grow(stop, levels)
        rows = self._set_nodes(start, levels)
        view = self.view
        with self._spread(arrays, workers) as spread:
            spread(lambda a, b, s: kernels.find_links(codes, view, a, b, self.ef_construct, s), start, end)
            _find_copies_in_batch(words, arrays, view, start, end)
            for level in range(min(view.top, int(levels.max())) + 1):
                self._merge(spread, codes, view, level, _links_back(view, start, levels, level))
        copies, heads = self._chain(view, start, end)
        if len(copies) and copies[-1] == end - 1:
            levels[-1] = 0  # a copy cannot be the entry point
        self._rows = rows
        if levels[-1] > view.top:
            view = view._replace(entry=end - 1, top=int(levels[-1]))
        copied, alike = self._copies + len(copies), self.alike + _count_inexact(words, arrays, copies, heads)
        view = view._replace(n=end)
        self.view, self._copies, self.alike = view, copied, alike  # one statement: an interrupt comes before or after
        self.sample(words, arrays.width)
        return end

    def _try(self, words: U64, stop: int, quantizer: Quantizer, originals: Originals | None, held: I64 | None) -> None:
        """Try walks, with nodes that are about to be linked as queries, whenever the graph has grown by an eighth.

        A trial takes some nodes of this batch, and goes on with those of later batches until it has asked enough.
        """
        n = len(self)
        if n < _TRIED_FROM or not kernels.search_graph.is_compiled():
            return
        every = 8 if n >= _OFTEN_FROM else 2
        if n >= self._tried + self._tried // every:  # even one node can be near to all, and no link may lead to it
            if self._trial.told:
                self._lost, self._counted = self._lost + (n - self._counted) * self._trial.told_of(), n
            self._tried, self._trial = n, Trial(True, 0 if originals else self.missed, n + n // every <= stop)
        for ordinals in self._trial.queries(n, stop, held):
            given = (self.view, words, quantizer, self.ef_construct, ordinals, originals)
            missed = missed_by_walks(*given) if self._trial.asks_for_missed else None
            narrow = missed_by_narrow_walks(*given) if self._trial.asks_for_narrow else None
            if self._trial.tells(len(ordinals), missed, narrow):
                now = self._trial.told_of()
                # an average, too: these queries may be near to older nodes, while others were missed in earlier trials
                all_ = np.maximum(now, np.round((self._lost + (n - self._counted) * now) / n))
                self.missed, self.narrow = int(all_[0]), int(all_[1])
                # by this trial alone: walks of a young graph miss more, and slight losses end when it grows
                slight = now.sum() <= NARROW  # walks of twice the width miss at least what wide ones miss
                self.times = 1 if now[1] <= SLIGHT else 2 if slight else WIDE

    def _reaching(self, words: U64, quantizer: Quantizer, n: int) -> layout.Quantizer:
        """The quantizer with the reach of lifts, for products: measured again whenever the graph has doubled."""
        arrays = quantizer.arrays
        if arrays.linking[2] <= 0:
            return arrays
        measured = 1 << (n.bit_length() - 1)
        if measured != self._measured:
            some = words[: measured : -(-measured // _MEASURED)]
            squares, lengths = squares_of(some, quantizer), lengths_of(some, quantizer)
            differ = lengths.std() > _ALIKE * lengths.mean()
            self._measured, self._reach = measured, float(np.quantile(squares, _REACHED)) if differ else 0.0
        linking = np.array([arrays.linking[0], max(0.0, self._reach), arrays.linking[2]], np.float32)
        return arrays._replace(linking=linking)

    def _chain(self, view: Graph, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Put the copies of a batch into the lists of their nodes; return both, int64 (count,) each."""
        same = view.same
        copies = np.flatnonzero(same[start:end] < -1) + start
        heads = -2 - same[copies].astype(np.int64)
        for copy, head in zip(copies.tolist(), heads.tolist(), strict=True):
            view.levels[copy], view.first[copy] = 0, -1
            same[copy] = same[head]  # before the next line, as a search may follow the list
            same[head] = copy
        return copies, heads

    def _merge(self, spread: Callable[..., None], codes: Codes, view: Graph, level: int, back: _Back) -> None:
        targets, ends, sources = back
        spread(
            lambda a, b, s: kernels.merge_links(codes, view, level, targets, ends, sources, (a, b), s), 0, len(targets)
        )

    def _set_nodes(self, start: int, levels: NDArray[np.uint8]) -> int:
        """Set the levels of new nodes and their rows above level 0; return how many rows are in use then."""
        view = self.view
        counts = levels.astype(np.int64)
        firsts = self._rows + np.cumsum(counts) - counts
        view.levels[start : start + len(levels)] = levels
        view.first[start : start + len(levels)] = np.where(counts > 0, firsts, -1)
        return self._rows + int(counts.sum())

    def _grow(self, stop: int, levels: NDArray[np.uint8]) -> None:
        """Make room up to ordinal ``stop``: arrays that a search may use are replaced, never changed in size."""
        view = self.view
        if stop > len(view.links):
            n = view.n
            size = max(stop, n + n // 2) if n else stop
            links = allocate(size, 2 * self.m, np.int32)
            first, old, same = np.empty(size, np.int32), np.zeros(size, np.uint8), np.full(size, -1, np.int32)
            same[:n] = view.same[:n]
            links[:n], first[:n], old[:n] = view.links[:n], view.first[:n], view.levels[:n]
            self.view = view = view._replace(links=links, first=first, levels=old, same=same)
        need = self._rows + int(levels.sum(dtype=np.int64))
        if need > len(view.upper):
            upper = np.full((max(need, len(view.upper) * 3 // 2, 16), self.m), -1, np.int32)
            upper[: self._rows] = view.upper[: self._rows]
            self.view = view._replace(upper=upper)

    @contextmanager
    def _spread(self, codes: layout.Quantizer, workers: Workers) -> Iterator[Callable[..., None]]:
        """Give a function that runs a kernel over a range: in this thread, or in several that take portions."""
        max_beam = max(self.ef_construct, 4 * self.m)
        sizes = Sizes(len(self.view.links), codes.width, codes.bits, 1, self.m, max_beam, 1, 1)
        free = self._pool.free(sizes)
        taken: list[Scratch] = []

        def scratch() -> Scratch:
            taken.append(free.pop() if free else make_scratch(sizes))
            return taken[-1]

        def spread(kernel: Callable[[int, int, Scratch], None], start: int, stop: int) -> None:
            threads = min(workers.threads, -(-(stop - start) // _PORTION))
            if threads <= 1:
                kernel(start, stop, taken[0] if taken else scratch())
                return
            while len(taken) < threads:
                scratch()
            size = max(_PORTION, (stop - start) // (threads * 8))
            portions = deque((at, min(at + size, stop)) for at in range(start, stop, size))
            mine = taken[:threads]

            def work(portions: deque[tuple[int, int]]) -> None:
                scratch = mine.pop()
                for begin, end in drain(portions):
                    kernel(begin, end, scratch)

            together(work, portions, workers.at_most(threads))

        try:
            yield spread
        finally:
            free.extend(taken)


def _unlink_later_copies(same: I32, n: int) -> None:
    """Take nodes of an interrupted batch out of the lists of copies, before their own entries are overwritten."""
    for node in np.flatnonzero(same[:n] >= n).tolist():
        after = int(same[node])
        while after >= n:
            after = int(same[after])
        same[node] = after


def _drop_later_links(rows: I32, n: int) -> I32:
    """Rows of links without the links to nodes of an interrupted batch."""
    marked = np.flatnonzero((rows >= n).any(1))
    if not len(marked):
        return rows
    some = rows[marked]
    some[some >= n] = -1
    rows = rows.copy()
    rows[marked] = np.take_along_axis(some, np.argsort(some < 0, axis=1, kind="stable"), 1)
    return rows


def _find_copies_in_batch(words: U64, arrays: layout.Quantizer, view: Graph, start: int, end: int) -> None:
    """Keep the first of equal codes in a batch as a node, and mark the others as copies.

    Linking does not do it, as the nodes of a batch are not linked to each other. Equality is that of `link.is_copy`.
    """
    if end - start == 1:
        return
    codes = np.ascontiguousarray(words[start:end, : arrays.width] if arrays.bits == 1 else words[start:end])
    rows = codes.view(np.dtype((np.void, codes.shape[1] * 8)))[:, 0]
    _, first, of = np.unique(rows, return_index=True, return_inverse=True)
    heads = first[of.reshape(-1)]
    copied = heads != np.arange(end - start)
    if arrays.bits == 1 and arrays.linking[0] > 0:
        copied &= _are_close(words, arrays, np.arange(start, end), start + heads)
    for i in np.flatnonzero(copied).tolist():
        node, head = start + i, start + int(heads[i])
        if view.same[node] >= -1:
            for level in range(int(view.levels[node])):
                view.upper[int(view.first[node]) + level] = -1
            view.links[node] = -1
            view.same[node] = view.same[head] if view.same[head] < -1 else -2 - head


def _count_inexact(words: U64, arrays: layout.Quantizer, copies: NDArray[np.int64], heads: NDArray[np.int64]) -> int:
    """How many copies differ from their graph node in the corrections; int64 (count,) each.

    A walk follows a list of copies if their graph node is near enough. An exact copy is as near as the node; an inexact
    one may be nearer, and is missed if the node is too far.
    """
    if arrays.bits > 1 or words.shape[1] == arrays.width:  # such codes are copies only if all their words are equal
        return 0
    return int((~_are_close(words, arrays, copies, heads)).sum())


def _are_close(words: U64, arrays: layout.Quantizer, some: NDArray[np.int64], others: NDArray[np.int64]) -> Any:
    """Whether the corrections of codes are those of the same vectors, rounded in another way: bool (n,)."""
    ours, theirs = (words[nodes, arrays.width :].view(np.float32) for nodes in (some, others))
    return np.isclose(ours, theirs, rtol=_CLOSE, atol=0).all(1)


def _list_heads(same: I32) -> NDArray[np.int64]:
    """The graph node whose list each node is in, int64 (n,); for damaged lists, any node."""
    heads = np.arange(len(same))
    following = np.flatnonzero(same >= 0)
    heads[same[following]] = following
    for _ in range(len(same).bit_length()):  # each round follows twice as many links
        heads = heads[heads]
    return heads


def _links_back(view: Graph, start: int, levels: NDArray[np.uint8], level: int) -> _Back:
    """The reverse of the new nodes' links on a level: targets, the bounds of their sources, and the sources."""
    new = np.flatnonzero(levels >= level) + start
    rows = view.links[new] if level == 0 else view.upper[view.first[new] + level - 1]
    full = rows >= 0
    targets, sources = rows[full], np.repeat(new.astype(np.int32), full.sum(1))
    order = np.argsort(targets, kind="stable")
    targets, sources = targets[order], sources[order]
    begins = np.flatnonzero(np.diff(targets, prepend=-1))
    return targets[begins], np.append(begins, len(targets)).astype(np.int64), sources


def levels_of(seed: int, start: int, stop: int, m: int) -> NDArray[np.uint8]:
    """The levels of nodes; each level above 0 has a node for every m of the one below.

    Malkov and Yashunin draw ``floor(-ln(uniform) / ln(m))``. Here the uniform number is a hash of (seed, ordinal), and
    is compared with integers, so that every machine gives the same levels.
    """
    x = splitmix64(seed, start, stop)
    levels = np.zeros(len(x), np.uint8)
    limit = 2**64
    for _ in range(_MAX_LEVEL):
        limit //= m
        levels += x < np.uint64(limit)
    return levels
