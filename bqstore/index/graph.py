"""The graph's arrays and how they grow: batches of new nodes, each searched for on the graph before it.

One writer at a time; a search takes `HnswGraph.view`, a tuple, and goes on with it whatever happens here. Levels are a
hash of (seed, ordinal) and a batch depends on nothing but the graph it finds, so the same codes, added in the same
calls, give the same bytes on any number of threads. Knows codes, no files, ids or originals.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ..kernels import api, layout
from ..kernels.layout import Codes, Graph, Scratch
from .memory import allocate
from .quantizer import Quantizer
from .scratch import ScratchPool, Sizes, make_scratch
from .threads import Workers, together

U64 = NDArray[np.uint64]
I32 = NDArray[np.int32]
_Back = tuple[I32, NDArray[np.int64], I32]

SEED = 0x6271_7374
_MAX_LEVEL = 24
# A batch is this part of the graph it is searched for on: nodes of one batch do not see each other. A sixteenth costs
# no recall that could be measured against a fiftieth, and gives threads enough to do.
_PART = 16
_SOME = 64
_BATCH = 8192  # nodes at most: a batch holds the writer's lock, and Ctrl-C waits for it
_SPAN = 8  # nodes a thread takes at a time, at least: below that, taking them costs more than waiting for others
# Corrections that differ by less order nothing anew: the same vector, rounded otherwise, or made a second time.
_CLOSE = 0.01


class HnswGraph:
    """A graph under construction.

    Attributes
    ----------
    view : Graph    as searches see it; its arrays are written behind ``view.n``, and rows of linked nodes in place
    alike : int     nodes that share no more than signs with the first of their list
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
        self._pool = ScratchPool()

    def __len__(self) -> int:
        return self.view.n

    def parts(self) -> tuple[dict[str, int], dict[str, NDArray[np.generic]]]:
        """What `restore` makes the graph from again: whole numbers, and arrays by the names in ``ARRAYS``."""
        view, n = self.view, self.view.n
        numbers = {"m": self.m, "ef_construct": self.ef_construct, "seed": self.seed}
        numbers |= {"entry": view.entry, "top": view.top, "rows": self._rows, "alike": self.alike}
        upper, same = _without_later(view.upper[: self._rows], n), view.same[:n]
        while (later := same >= n).any():  # of a batch that was broken off: what comes after them in their lists
            same = np.where(later, view.same[np.where(later, same, 0)], same)
        arrays = (_without_later(view.links[:n], n), upper, view.first[:n], view.levels[:n], same)
        return numbers, dict(zip(self.ARRAYS, arrays, strict=True))

    def restore(self, numbers: Mapping[str, int], arrays: Mapping[str, NDArray[np.generic]], n: int) -> None:
        """Take the place of a graph of n nodes that `parts` gave; the arrays are copied, links to huge pages.

        Raises ValueError if it was made with other settings, or is not what a walk may rely on; KeyError for a part
        that is missing. ``alike`` may be, of a version that did not count them: it is 0 then, until `count`.
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
        faults = int(api.check_graph(view))
        if faults:
            raise ValueError(f"{faults:,} rows of links are faulty" if faults > 0 else "its entry point is not in it")
        copied, alike = int((same >= 0).sum()), int(numbers.get("alike", 0))
        if not 0 <= alike <= copied:
            raise ValueError(f"{alike:,} of {copied:,} copies are said to be alike")
        self.view, self._rows, self._copies, self.alike = view, int(numbers["rows"]), copied, alike

    def count(self, words: U64, quantizer: Quantizer) -> None:
        """Count ``alike`` of a graph that was restored; words : uint64 (at least n, columns)."""
        firsts = _firsts_of(self.view.same[: self.view.n])
        copies = np.flatnonzero(firsts != np.arange(len(firsts)))
        self.alike = _alike(words, quantizer.arrays, copies, firsts[copies])

    def link(self, words: U64, stop: int, workers: Workers, quantizer: Quantizer | None = None) -> int:
        """Link the next batch of codes, at most up to ordinal ``stop``; return how many nodes there are now.

        An exception, Ctrl-C among them, leaves the graph as it was before the batch: links to nodes that it does not
        have are passed over by searches, and known when the batch is linked again.

        Parameters
        ----------
        words : uint64 (at least stop, columns)
        workers : Workers       how many kernel calls may run at once
        quantizer : Quantizer   what made the codes; None: their words are all signs
        """
        view = self.view
        start = view.n
        arrays = (Quantizer.signs(64 * words.shape[1]) if quantizer is None else quantizer).arrays
        codes = Codes(words, stop, arrays)
        if start >= stop:
            return start
        _pass_over_later(view.same, start)
        # of codes that are mostly copies, some at a time all the same: those of one batch are found in it
        part = max((start - self._copies) // _PART, min(start // _PART, _SOME))
        end = min(stop, start + max(1, min(part, _BATCH)))
        levels = levels_of(self.seed, start, end, self.m)
        if start == 0:
            self._grow(stop, levels)
            self._rows = 0  # Ctrl-C may have come between the last two lines of this branch
            self._set_nodes(0, levels)
            self.view.links[0] = self.view.same[0] = -1
            self.view.upper[: int(levels[0])] = -1
            self._rows = int(levels[0])  # before the node is there: its rows must not be given away
            self.view = self.view._replace(n=1, entry=0, top=int(levels[0]))
            return 1
        higher = np.flatnonzero(levels > view.top)
        if len(higher):  # alone on its top level, it has no neighbors there: the next batch must be able to find it
            end = start + int(higher[0]) + 1
            levels = levels[: end - start]
        self._grow(stop, levels)
        rows = self._set_nodes(start, levels)
        view = self.view
        with self._spread(arrays.width, workers) as spread:
            spread(lambda a, b, s: api.find_links(codes, view, a, b, self.ef_construct, s), start, end)
            _same_in_batch(words[:, : arrays.width] if arrays.bits == 1 else words, view, start, end)
            for level in range(min(view.top, int(levels.max())) + 1):
                self._merge(spread, codes, view, level, _links_back(view, start, levels, level))
        copies, firsts = self._chain(view, start, end)
        if len(copies) and copies[-1] == end - 1:
            levels[-1] = 0  # a copy cannot be the entry point
        self._rows = rows
        if levels[-1] > view.top:
            view = view._replace(entry=end - 1, top=int(levels[-1]))
        copied, alike = self._copies + len(copies), self.alike + _alike(words, arrays, copies, firsts)
        view = view._replace(n=end)
        self.view, self._copies, self.alike = view, copied, alike  # at once: Ctrl-C comes before, or after
        return end

    def _chain(self, view: Graph, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Put those of a batch whose code was there before into the lists of its nodes.

        Returns them, int64 (count,), and the first of the list of each.
        """
        same = view.same
        copies = np.flatnonzero(same[start:end] < -1) + start
        firsts = -2 - same[copies].astype(np.int64)
        for copy, known in zip(copies.tolist(), firsts.tolist(), strict=True):
            view.levels[copy], view.first[copy] = 0, -1
            same[copy] = same[known]  # before the other: a search may be passing
            same[known] = copy
        return copies, firsts

    def _merge(self, spread: Callable[..., None], codes: Codes, view: Graph, level: int, back: _Back) -> None:
        targets, ends, sources = back
        spread(lambda a, b, s: api.merge_links(codes, view, level, targets, ends, sources, (a, b), s), 0, len(targets))

    def _set_nodes(self, start: int, levels: NDArray[np.uint8]) -> int:
        """Give new nodes their levels and their rows above level 0; return how many rows are in use then."""
        view = self.view
        counts = levels.astype(np.int64)
        firsts = self._rows + np.cumsum(counts) - counts
        view.levels[start : start + len(levels)] = levels
        view.first[start : start + len(levels)] = np.where(counts > 0, firsts, -1)
        return self._rows + int(counts.sum())

    def _grow(self, stop: int, levels: NDArray[np.uint8]) -> None:
        """Make room: arrays that a search may hold are replaced, never moved."""
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
    def _spread(self, width: int, workers: Workers) -> Iterator[Callable[..., None]]:
        """How a kernel is run over a range: by this thread, or by several that take portions until none is left."""
        room = max(self.ef_construct, 4 * self.m)
        sizes = Sizes(len(self.view.links), width, 1, self.m, room, 1, 1)
        free = self._pool.free(sizes)
        taken: list[Scratch] = []

        def scratch() -> Scratch:
            taken.append(free.pop() if free else make_scratch(sizes))
            return taken[-1]

        def spread(kernel: Callable[[int, int, Scratch], None], start: int, stop: int) -> None:
            threads = min(workers.threads, -(-(stop - start) // _SPAN))
            if threads <= 1:
                kernel(start, stop, taken[0] if taken else scratch())
                return
            while len(taken) < threads:
                scratch()
            size = max(_SPAN, (stop - start) // (threads * 8))
            portions = deque((at, min(at + size, stop)) for at in range(start, stop, size))
            mine = taken[:threads]

            def work(portions: deque[tuple[int, int]]) -> None:
                scratch = mine.pop()
                while True:
                    try:
                        begin, end = portions.popleft()
                    except IndexError:
                        return
                    kernel(begin, end, scratch)

            together(work, portions, workers.at_most(threads))

        try:
            yield spread
        finally:
            free.extend(taken)


def _pass_over_later(same: I32, n: int) -> None:
    """Take nodes of a batch that was broken off out of the lists, while what they lead to is still known."""
    for node in np.flatnonzero(same[:n] >= n).tolist():
        after = int(same[node])
        while after >= n:
            after = int(same[after])
        same[node] = after


def _without_later(rows: I32, n: int) -> I32:
    """Rows of links without those to the nodes of a batch that was broken off."""
    marked = np.flatnonzero((rows >= n).any(1))
    if not len(marked):
        return rows
    some = rows[marked]
    some[some >= n] = -1
    rows = rows.copy()
    rows[marked] = np.take_along_axis(some, np.argsort(some < 0, axis=1, kind="stable"), 1)
    return rows


def _same_in_batch(words: U64, view: Graph, start: int, end: int) -> None:
    """Leave the first of equal codes of a batch, which do not see each other, as a node; the others are its copies."""
    codes = np.ascontiguousarray(words[start:end])
    rows = codes.view(np.dtype((np.void, codes.shape[1] * 8)))[:, 0]
    _, first, of = np.unique(rows, return_index=True, return_inverse=True)
    leader = first[of.reshape(-1)]
    for i in np.flatnonzero(leader != np.arange(end - start)).tolist():
        node, known = start + i, start + int(leader[i])
        if view.same[node] >= -1:
            for level in range(int(view.levels[node])):
                view.upper[int(view.first[node]) + level] = -1
            view.links[node] = -1
            view.same[node] = view.same[known] if view.same[known] < -1 else -2 - known


def _alike(words: U64, arrays: layout.Quantizer, copies: NDArray[np.int64], firsts: NDArray[np.int64]) -> int:
    """How many copies share no more than signs with the first of their list: int64 (count,) each.

    A walk opens a list where its first is near. The same code, or nearly, is as near; other corrections may be nearer.
    """
    if arrays.bits > 1 or words.shape[1] == arrays.width:  # whole codes are in a list
        return 0
    ours, theirs = (words[nodes, arrays.width :].view(np.float32) for nodes in (copies, firsts))
    return int((~np.isclose(ours, theirs, rtol=_CLOSE, atol=0)).any(1).sum())


def _firsts_of(same: I32) -> NDArray[np.int64]:
    """The first of the list that each node is in, int64 (n,); of lists that lead astray, any node."""
    firsts = np.arange(len(same))
    leading = np.flatnonzero(same >= 0)
    firsts[same[leading]] = leading
    for _ in range(len(same).bit_length()):  # each round goes twice as far
        firsts = firsts[firsts]
    return firsts


def _links_back(view: Graph, start: int, levels: NDArray[np.uint8], level: int) -> _Back:
    """What the new nodes of a level link to, turned round: targets, where the sources of each begin, the sources."""
    new = np.flatnonzero(levels >= level) + start
    rows = view.links[new] if level == 0 else view.upper[view.first[new] + level - 1]
    full = rows >= 0
    targets, sources = rows[full], np.repeat(new.astype(np.int32), full.sum(1))
    order = np.argsort(targets, kind="stable")
    targets, sources = targets[order], sources[order]
    begins = np.flatnonzero(np.diff(targets, prepend=-1))
    return targets[begins], np.append(begins, len(targets)).astype(np.int64), sources


def levels_of(seed: int, start: int, stop: int, m: int) -> NDArray[np.uint8]:
    """The levels of nodes: each one above 0 is m times rarer than the one below.

    Malkov and Yashunin draw ``floor(-ln(uniform) / ln(m))``; the uniform number here is a hash of (seed, ordinal),
    splitmix64 (Steele, Lea and Flood 2014), compared with whole numbers, so that every machine gives the same.
    """
    word = np.uint64
    x = np.arange(start + 1, stop + 1, dtype=np.uint64)
    x *= word(0x9E37_79B9_7F4A_7C15)
    x += word(seed)
    x = (x ^ (x >> word(30))) * word(0xBF58_476D_1CE4_E5B9)
    x = (x ^ (x >> word(27))) * word(0x94D0_49BB_1331_11EB)
    x ^= x >> word(31)
    levels = np.zeros(len(x), np.uint8)
    limit = 2**64
    for _ in range(_MAX_LEVEL):
        limit //= m
        levels += x < word(limit)
    return levels
