"""A batch that is broken off: the graph is the one before it, for searches, for the next batch, and for the disk."""

import sys
from concurrent.futures import Future

import numpy as np
import pytest

from bqstore.index import HnswGraph, Quantizer
from bqstore.index.graph import levels_of
from bqstore.index.threads import ALONE, Workers
from bqstore.kernels import api, dispatch
from bqstore.kernels.layout import COSINE
from tests.index.given import data_of, encode, grow, lists_of, lists_of_codes, reached, recall, searchable, walk

N, DIM, HALF = 3000, 128, 1500


@pytest.fixture(scope="module")
def data():
    vectors, queries = data_of(N, DIM)
    return encode(vectors), queries


class Inline:
    """An executor that runs at once, and refuses from the ``broken``-th task on."""

    def __init__(self, broken):
        self.left = broken

    def submit(self, function, *args):
        if self.left == 0:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.left -= 1
        future = Future()
        future.set_result(function(*args))
        return future


def broken_off(monkeypatch, name, calls, before, error=KeyboardInterrupt):
    """Make the root ``name`` raise at the given call, before or after it has done its work."""
    root, count = getattr(dispatch, name), [0]

    def interrupted(*args):
        count[0] += 1
        if before and count[0] >= calls:
            raise error
        root(*args)
        if count[0] >= calls:
            raise error

    monkeypatch.setattr(dispatch, name, interrupted)


def check_usable(graph, words, queries, n):
    """A search finds what is linked; what remains can be linked, and all is found then."""
    state = searchable(words, DIM, graph, n=n)
    assert recall(words, queries, walk(state, queries, 10, 32), n=n) > 0.98
    grow(words, graph=graph)
    assert api.check_graph(graph.view) == 0
    assert reached(graph).all()
    assert recall(words, queries, walk(searchable(words, DIM, graph), queries, 10, 32)) > 0.99


@pytest.mark.parametrize("name", ["find_links", "merge_links"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_interrupt_in_a_kernel_leaves_the_graph_before_the_batch(data, monkeypatch, name, before, calls):
    words, queries = data
    graph = grow(words, stop=HALF)
    numbers = {key: graph.parts()[0][key] for key in ("entry", "top")}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        broken_off(patch, name, calls, before)
        for _ in range(4):  # a level may need no merging
            graph.link(words, N, ALONE)
    n = len(graph)
    assert n == graph.view.n and HALF <= n < N
    if n == HALF:
        assert {key: graph.parts()[0][key] for key in ("entry", "top")} == numbers
    check_usable(graph, words, queries, n)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_where_an_executor_refuses_this_thread_links_alone(data, broken):
    """While Python ends, or in a container that allows few threads."""
    words, queries = data
    graph = grow(words, stop=HALF)
    executor = Inline(broken)
    n = graph.link(words, N, Workers(3, lambda: executor))
    assert HALF < n == len(graph)
    check_usable(graph, words, queries, n)


def test_a_pool_that_cannot_be_had_leaves_the_graph_before_the_batch(data):
    words, queries = data
    graph = grow(words, stop=HALF)

    def refuse():
        raise RuntimeError("closed")

    with pytest.raises(RuntimeError, match="closed"):
        graph.link(words, N, Workers(2, refuse))
    assert len(graph) == HALF
    check_usable(graph, words, queries, HALF)


@pytest.mark.parametrize("where", ["find_links", "merge_links"])
def test_an_error_in_one_thread_ends_the_others(data, monkeypatch, where):
    words, queries = data
    graph = grow(words, stop=HALF)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        broken_off(patch, where, 2, True, MemoryError)
        grow(words, graph=graph, threads=3)
    assert len(graph) == HALF
    check_usable(graph, words, queries, HALF)


def test_many_interrupts_one_after_the_other(data, monkeypatch):
    words, queries = data
    graph = HnswGraph(16, 64)
    rng = np.random.default_rng(0)
    interrupts = 0
    while len(graph) < N:
        with monkeypatch.context() as patch:
            if rng.random() < 0.4:
                broken_off(patch, str(rng.choice(["find_links", "merge_links"])), 1, bool(rng.random() < 0.5))
            try:
                graph.link(words, N, ALONE)
            except KeyboardInterrupt:
                interrupts += 1
    assert interrupts > 20
    assert api.check_graph(graph.view) == 0
    assert reached(graph).all()
    assert recall(words, queries, walk(searchable(words, DIM, graph), queries, 10, 32)) > 0.99


def test_what_is_kept_after_an_interrupt_can_be_restored(data, monkeypatch):
    words, queries = data
    graph = grow(words, stop=HALF)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        broken_off(patch, "merge_links", 1, False)
        graph.link(words, N, ALONE)
    restored = HnswGraph(16, 64)
    restored.restore(*graph.parts(), len(graph))
    check_usable(restored, words, queries, HALF)


class InterruptAt:
    """Ctrl-C before the ``event``-th time that a line of graph.py runs; 0: never. ``lines`` : those that have run."""

    def __init__(self, event=0):
        self.event, self.lines = event, []

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def trace(self, frame, event, _):
        if not frame.f_code.co_filename.endswith("graph.py"):
            return None
        if event == "line":
            self.lines.append(frame.f_lineno)
            if len(self.lines) == self.event:
                raise KeyboardInterrupt
        return self.trace


def interruptions(every, graph, link, least):
    """Interrupts, to be entered, before each line that ``link(graph)`` runs: every time, or the first and the last."""
    with InterruptAt() as whole:
        link(graph)
    lines = whole.lines
    assert len(lines) > least
    last = {line: event for event, line in enumerate(lines, 1)}
    first = {line: event for event, line in reversed(list(enumerate(lines, 1)))}
    chosen = range(1, len(lines) + 1) if every else sorted({*first.values(), *last.values()})
    return [InterruptAt(event) for event in chosen]


at_every_line = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])


def own_rows(graph):
    """The rows above level 0 that the nodes have, each once for each node that it belongs to."""
    view = graph.view
    spans = zip(view.first[: view.n].tolist(), view.levels[: view.n].tolist(), strict=True)
    return [row for first, level in spans for row in range(first, first + level)]


@pytest.mark.sampled(1)
@at_every_line
@pytest.mark.parametrize(
    "linked", [0, 1, 50, pytest.param(2, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.slow)]
)
def test_an_interrupt_at_any_line_leaves_a_graph_that_can_be_linked(linked, every):
    vectors, _ = data_of(120, 64)
    words = encode(vectors)
    seed = next(seed for seed in range(1000) if levels_of(seed, 0, 1, 4)[0] >= 2)

    def begun():
        return grow(words, stop=linked, graph=HnswGraph(4, 10, seed))

    def link(graph):
        graph.link(words, 110, ALONE)

    for interrupt in interruptions(every, begun(), link, 20 if linked else 5):
        graph = begun()
        with pytest.raises(KeyboardInterrupt), interrupt:
            link(graph)
        grow(words, graph=graph)
        assert len(graph) == 120
        assert api.check_graph(graph.view) == 0, f"line {interrupt.lines[-1]}"
        rows = own_rows(graph)
        assert len(set(rows)) == len(rows) <= graph.parts()[0]["rows"] <= len(graph.view.upper)


@pytest.fixture(scope="module")
def copies():
    """Every code four times, in any order."""
    vectors, _ = data_of(20, 64)
    return encode(vectors[np.random.default_rng(0).permutation(np.repeat(np.arange(20), 4))])


@pytest.mark.sampled(1)
@at_every_line
@pytest.mark.parametrize(
    "linked", [0, 1, 50, pytest.param(2, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.slow)]
)
def test_an_interrupt_at_any_line_loses_no_copies(copies, linked, every):
    """In memory, on disk, and when the batch is linked again."""

    def begun():
        return grow(copies, stop=linked, graph=HnswGraph(4, 20))

    def link(graph):
        graph.link(copies, 75, ALONE)

    for interrupt in interruptions(every, begun(), link, 100):
        graph = begun()
        with pytest.raises(KeyboardInterrupt), interrupt:
            link(graph)
        n, line = len(graph), interrupt.lines[-1]
        restored = HnswGraph(4, 20)
        restored.restore(*graph.parts(), n)
        for each in (graph, restored):
            assert lists_of(each) == lists_of_codes(copies, n), f"line {line}"
            grow(copies, graph=each)
            assert api.check_graph(each.view) == 0, f"line {line}"
            assert lists_of(each) == lists_of_codes(copies, 80), f"line {line}"


@pytest.mark.slow
@at_every_line
@pytest.mark.parametrize("linked", [50, 0, 1, pytest.param(40, marks=pytest.mark.slow)])
def test_an_interrupt_at_any_line_counts_inexact_copies_once(linked, every):
    vectors, _ = data_of(80, 4)
    quantizer = Quantizer.train(vectors, "one_bit", "rabitq", False, COSINE)
    words = quantizer.encode(vectors)

    def begun():
        return grow(words, stop=linked, graph=HnswGraph(4, 20), quantizer=quantizer)

    def link(graph):
        graph.link(words, 75, ALONE, quantizer)

    for interrupt in interruptions(every, begun(), link, 20 if linked else 5):
        graph = begun()
        with pytest.raises(KeyboardInterrupt), interrupt:
            link(graph)
        for stop in (len(graph), 80):
            grow(words, graph=graph, stop=stop, quantizer=quantizer)
            restored = HnswGraph(4, 20)
            restored.restore(*graph.parts(), stop)
            restored.count(words, quantizer)
            assert restored.alike == graph.alike == graph.parts()[0]["alike"], f"line {interrupt.lines[-1]}"
        assert graph.alike > 50


def test_a_batch_interrupted_twice_loses_no_copies(copies, monkeypatch):
    """The first time when its lists were made, the second time when its links were found: what is kept is whole."""
    graph = grow(copies, stop=50, graph=HnswGraph(4, 20))
    chain = HnswGraph._chain

    def interrupted(*args):
        chain(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HnswGraph, "_chain", interrupted)
        graph.link(copies, 75, ALONE)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        broken_off(patch, "find_links", 1, False)
        graph.link(copies, 75, ALONE)
    assert lists_of(graph) == lists_of_codes(copies, 50)
    restored = HnswGraph(4, 20)
    restored.restore(*graph.parts(), 50)
    assert lists_of(restored) == lists_of_codes(copies, 50)


def test_a_graph_that_grows_after_a_batch_was_interrupted_loses_no_copies(copies, monkeypatch):
    """Its arrays are replaced, and what the broken-off nodes led to is not in the new ones."""
    words = copies[:50]
    graph = grow(words, stop=45, graph=HnswGraph(4, 20))
    assert len(graph.view.same) == 45
    chain = HnswGraph._chain

    def interrupted(*args):
        chain(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HnswGraph, "_chain", interrupted)
        graph.link(words, 50, ALONE)
    graph.link(copies, 80, ALONE)
    assert lists_of(graph) == lists_of_codes(copies, len(graph))
    grow(copies, graph=graph)
    assert api.check_graph(graph.view) == 0
    assert lists_of(graph) == lists_of_codes(copies, 80)
