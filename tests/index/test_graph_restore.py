"""A graph taken apart and put together again, and what is refused."""

import numpy as np
import pytest

from bqstore.index import HnswGraph
from bqstore.index.threads import ALONE
from bqstore.kernels import api
from tests.index.given import (
    bytes_of,
    data_of,
    encode,
    grow,
    lists_of,
    lists_of_codes,
    reached,
    recall,
    searchable,
    walk,
)

N, DIM, M, EF = 1500, 96, 6, 40


@pytest.fixture(scope="module")
def whole():
    vectors, queries = data_of(N, DIM)
    words = encode(vectors)
    return words, queries, grow(words, M, EF)


def put_together(numbers, arrays, n=N, m=M, ef=EF, **settings):
    graph = HnswGraph(m, ef, **settings)
    graph.restore(numbers, arrays, n)
    return graph


def copies(graph):
    """The parts, as they come from a file: arrays of their own, read-only."""
    numbers, arrays = graph.parts()
    arrays = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    return dict(numbers), arrays


def test_the_same_graph_comes_back(whole):
    words, queries, graph = whole
    again = put_together(*copies(graph))
    assert bytes_of(again) == bytes_of(graph)
    assert api.check_graph(again.view) == 0
    expected = walk(searchable(words, DIM, graph), queries, 10, 40)
    assert (walk(searchable(words, DIM, again), queries, 10, 40) == expected).all()
    for array in again.view[:5]:
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned


def test_what_comes_back_grows_as_the_other_would_have(whole):
    words, queries, _ = whole
    graph = grow(words, M, EF, stop=900)
    again = put_together(*copies(graph), n=900)
    for each in (graph, again):
        grow(words, graph=each)
    assert bytes_of(again) == bytes_of(graph)
    assert recall(words, queries, walk(searchable(words, DIM, again), queries, 10, 40)) > 0.98


def test_copies_come_back_and_are_added_to(whole):
    words, queries, _ = whole
    words = np.concatenate([words[:300]] * 5)[np.random.default_rng(0).permutation(N)]
    graph = grow(words, M, EF, stop=900)
    again = put_together(*copies(graph), n=900)
    assert lists_of(again) == lists_of(graph) == lists_of_codes(words, 900)
    for each in (graph, again):
        grow(words, graph=each)
    assert bytes_of(again) == bytes_of(graph)
    assert lists_of(again) == lists_of_codes(words, N)
    numbers, arrays = copies(again)
    assert numbers["rows"] >= int(arrays["levels"].sum())  # copies give theirs up
    assert recall(words, queries, walk(searchable(words, DIM, again), queries, 10, 40)) > 0.98


@pytest.mark.parametrize("kind", ["to itself", "circle", "ascending"])
def test_lists_of_copies_that_are_damaged_are_walked_to_an_end(whole, kind):
    """check_graph does not follow lists: what stays in the graph is taken, and a search of it ends."""
    words, queries, graph = whole
    every = np.arange(N, dtype=np.int32)
    lists = {"to itself": every, "circle": every ^ 1, "ascending": np.minimum(every + 1, N - 1)}[kind]
    bad = put_together(*changed(copies(graph), "same", lambda _: lists))
    found = walk(searchable(words, DIM, bad), queries[:5], 10, 40)
    assert ((found >= 0) & (found < N)).all()
    more = np.concatenate([words, words[:100]])
    grow(more, graph=bad)
    assert len(bad) == N + 100


@pytest.mark.parametrize("n", [0, 1, 2, 17])
def test_small_graphs_come_back(whole, n):
    words, _, _ = whole
    graph = grow(words[:n], M, EF) if n else HnswGraph(M, EF)
    again = put_together(*copies(graph), n=n)
    assert bytes_of(again) == bytes_of(graph)
    grow(words[:60], graph=again)
    assert len(again) == 60 and reached(again).all()


def test_the_parts_are_those_of_linked_nodes_only(whole):
    words, _, _ = whole
    graph = HnswGraph(M, EF)
    while len(graph) < 500:  # memory is taken for all of them at once
        graph.link(words, N, ALONE)
    n = len(graph)
    numbers, arrays = graph.parts()
    assert {name: array.shape for name, array in arrays.items()} == {
        "links": (n, 2 * M),
        "upper": (numbers["rows"], M),
        "first": (n,),
        "levels": (n,),
        "same": (n,),
    }
    assert numbers["rows"] == int(arrays["levels"].sum())
    assert all(type(number) is int for number in numbers.values())


def changed(parts, name, change):
    numbers, arrays = parts
    if name in numbers:
        return {**numbers, name: change(numbers[name])}, arrays
    return numbers, {**arrays, name: change(arrays[name].copy())}


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


DAMAGE = {
    "other m": ("m", lambda m: m + 1),
    "other ef_construct": ("ef_construct", lambda ef: ef - 1),
    "other seed": ("seed", lambda seed: seed ^ 1),
    "entry past the end": ("entry", lambda _: N),
    "entry negative": ("entry", lambda _: -1),
    "entry below the top": ("entry", lambda entry: entry + 1),
    "top too high": ("top", lambda top: top + 1),
    "top too low": ("top", lambda top: top - 1),
    "top negative": ("top", lambda _: -1),
    "rows too many": ("rows", lambda rows: rows + 1),
    "rows too few": ("rows", lambda rows: rows - 1),
    "rows negative": ("rows", lambda _: -1),
    "alike negative": ("alike", lambda _: -1),
    "more alike than there are copies": ("alike", lambda _: N),
    "links too few": ("links", lambda links: links[:-1]),
    "links of another m": ("links", lambda links: links[:, :-2]),
    "links of another type": ("links", lambda links: links.astype(np.int64)),
    "links in one row": ("links", lambda links: links.reshape(-1)),
    "upper of another m": ("upper", lambda upper: upper[:, :-1]),
    "upper unsigned": ("upper", lambda upper: upper.view(np.uint32)),
    "first too long": ("first", lambda first: np.append(first, first[-1:])),
    "first of two columns": ("first", lambda first: first.reshape(-1, 2)),
    "levels of another type": ("levels", lambda levels: levels.astype(np.int32)),
    "levels too few": ("levels", lambda levels: levels[:-1]),
    "link past the end": ("links", put((7, 0), N)),
    "link far past the end": ("links", put((7, 0), 2**31 - 1)),
    "link negative": ("links", put((7, 0), -2)),
    "link to itself": ("links", put((7, 0), 7)),
    "hole in a row": ("links", put((7, 0), -1)),
    "upper link past the end": ("upper", put((0, 0), N)),
    "upper link negative": ("upper", put((0, 0), -5)),
    "a level too many": ("levels", put(slice(None), 1)),
    "a level above the top": ("levels", put(3, 200)),
    "rows of the levels gone": ("first", put(slice(None), -1)),
    "rows of the levels past the end": ("first", put(slice(None), 10**6)),
    "same past the end": ("same", put(7, N)),
    "same far past the end": ("same", put(7, 2**31 - 1)),
    "same as a batch marks copies": ("same", put(7, -2)),
    "same too few": ("same", lambda same: same[:-1]),
    "same of another type": ("same", lambda same: same.astype(np.int64)),
    "same of two columns": ("same", lambda same: same.reshape(-1, 2)),
    "big endian": ("links", lambda links: links.astype(">i4")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused(whole, kind):
    _, _, graph = whole
    with pytest.raises(ValueError):
        put_together(*changed(copies(graph), *DAMAGE[kind]))


@pytest.mark.parametrize("n", [0, 1, N - 1, N + 1, -1])
def test_another_number_of_nodes_is_refused(whole, n):
    _, _, graph = whole
    with pytest.raises(ValueError):
        put_together(*copies(graph), n=n)


@pytest.mark.parametrize("name", ["m", "ef_construct", "seed", "entry", "top", "rows", *HnswGraph.ARRAYS])
def test_a_missing_part_is_refused(whole, name):
    _, _, graph = whole
    numbers, arrays = copies(graph)
    numbers.pop(name, None)
    arrays.pop(name, None)
    with pytest.raises(KeyError):
        put_together(numbers, arrays)


def test_a_refused_graph_leaves_the_one_there_was(whole):
    words, _, graph = whole
    own = grow(words[:100], M, EF)
    before = bytes_of(own)
    for damage in DAMAGE.values():
        with pytest.raises(ValueError):
            own.restore(*changed(copies(graph), *damage), N)
        assert bytes_of(own) == before
    own.restore(*copies(graph), N)
    assert bytes_of(own) == bytes_of(graph)


def test_random_damage_is_refused_or_can_be_walked(whole):
    """Any word of any array: what is not refused is a graph whose walks stay inside."""
    words, queries, graph = whole
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        name = str(rng.choice(HnswGraph.ARRAYS))
        parts = copies(graph)
        flat = parts[1][name].reshape(-1)
        index = int(rng.integers(len(flat)))
        value = int(rng.integers(0, 256)) if name == "levels" else int(rng.integers(-3, N + 3))
        try:
            bad = put_together(*changed(parts, name, lambda array, i=index, v=value: _set(array, i, v)))
        except ValueError:
            refused += 1
            continue
        found = walk(searchable(words, DIM, bad), queries[:5], 10, 40)
        assert ((found >= 0) & (found < N)).all()
    assert refused > 5


def _set(array, index, value):
    array.reshape(-1)[index] = value
    return array
