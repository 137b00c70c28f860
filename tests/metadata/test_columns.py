"""Columns as objects: versions that only grow, what they answer, and arrays that come back from a file."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.bitmap import count, everything, to_bitmap, to_mask
from bqstore.kernels.metadata import BIG, DICT, FLOAT, INT, LENGTH_BITS, LENGTH_MASK, LIST, STRING
from bqstore.metadata import dictionary, evaluate, id_column
from bqstore.metadata.columns import Column, field_of
from bqstore.metadata.dictionary import NOTHING, Dictionary, Entries, mark_of, text_of
from bqstore.metadata.filter_grammar import parse
from bqstore.metadata.filter_tree import EVERYTHING, And, Exists, Field, Not, OneOf, Or
from bqstore.metadata.id_column import Ids
from bqstore.metadata.values import typed
from tests import slow_filters
from tests.conftest import often

NAMES = ("codes", "kinds", "values", "marks", "heap", "members")
INTS = (-(2**63) - 1, -(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 10**40)
FLOATS = (-1.7e308, -0.5, -0.0, 1.0, 5e-324, 2.0**53, 2.0**63, 1e300)
TEXTS = ("", "a", "ab", "A", "é", "√𝄞", "1", "('number', 1)", "x" * 300, "\x00", "%", "null")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(INTS),
    st.sampled_from(FLOATS),
    st.sampled_from(TEXTS),
    st.integers(-3, 3),
    st.text("abé%_", max_size=3),
)
whole = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "é"]), inner, max_size=2),
    ),
    max_leaves=5,
)
values = st.one_of(st.just(NOTHING), whole)
some_values = st.lists(values, max_size=12)


def column(given):
    return Column("k").extended(given)


def ordinals(bits, n):
    return np.flatnonzero(to_mask(bits, n)).tolist()


def matched(held, test):
    """The ordinals of a column that pass a test; no bits lie behind the last."""
    bits = evaluate.matching(held, test)
    assert bits.dtype == np.uint64 and bits.shape == (-(-held.n // 64),)
    found = ordinals(bits, held.n)
    assert count(bits) == len(found)
    return found


def equal_to(value):
    return OneOf((typed(value),), whole=True)


def assert_holds(held, expected):
    """A column holds these values, and no others equal to them elsewhere."""
    assert held.n == len(held.codes) == len(expected)
    assert len(held.dictionary) > max([0, *held.codes.tolist()])
    assert matched(held, Exists()) == [i for i, value in enumerate(expected) if value is not NOTHING]
    known = [None if value is NOTHING else typed(value) for value in expected]
    for each in dict.fromkeys(known):
        if each is not None:
            assert matched(held, OneOf((each,), whole=True)) == [i for i, other in enumerate(known) if other == each]
    assert matched(held, equal_to("no such value")) == []


# ---- versions


steps = st.lists(
    st.one_of(
        st.tuples(st.just("extended"), some_values),
        st.tuples(st.just("replaced"), st.lists(st.tuples(st.integers(0, 10**6), values), max_size=6)),
        st.tuples(st.just("restored"), st.none()),
    ),
    max_size=8,
)


@settings(max_examples=often(200), deadline=None)
@given(steps)
def test_every_version_holds_what_it_held(given):
    """Whatever newer ones hold; those that came from a file, too."""
    held, expected = Column("k"), []
    versions = [(held, [])]
    for name, more in given:
        if name == "extended":
            held, expected = held.extended(more), expected + more
        elif name == "replaced" and expected:
            where = {place % len(expected): value for place, value in more}
            held = held.replaced(list(where), where.values())
            expected = [where.get(i, value) for i, value in enumerate(expected)]
        elif name == "restored":
            held = Column.restored("k", {k: v.copy() for k, v in held.parts(held.n).items()}, held.n)
        versions.append((held, expected))
    for version, contents in versions:
        assert_holds(version, contents)


@pytest.mark.parametrize("counts", [(100, 400), (255, 256, 257, 300), (3, 70_000), (65_000, 65_600, 70_000)])
def test_an_older_version_whose_codes_are_narrower_answers_as_it_did(counts):
    """Entries of newer values have numbers that its codes cannot name, and once were taken for others."""
    texts = [f"v{i}" for i in range(max(counts))]
    versions, held, done = [], Column("k"), 0
    for size in counts:
        held = held.extended(texts[done:size])
        versions.append(held)
        done = size
    for size, version in zip(counts, versions, strict=True):
        assert version.n == size
        for i in sorted({0, 1, 42, 43, 44, 254, 255, 256, 299, 300, *(c - 1 for c in counts), *counts, 65_535, 65_536}):
            if i < len(texts):
                assert matched(version, equal_to(texts[i])) == ([i] if i < size else [])
                several = OneOf((typed(texts[i]), typed(texts[0])))
                assert matched(version, several) == sorted({0, i} if i < size else {0})
        assert len(matched(version, parse({"k": {"$like": "v%"}}).test)) == size


@pytest.mark.parametrize("count", [200, 256, 65_600])
def test_codes_are_as_narrow_as_the_entries_allow(count):
    """With the entry of what is not there: 255 values fit in a byte."""
    held = column([*range(count), NOTHING])
    assert held.codes.dtype == (np.uint8 if count < 256 else np.uint16 if count < 65_536 else np.uint32)
    assert matched(held, Exists()) == list(range(count))
    assert matched(held, equal_to(count - 1)) == [count - 1]
    assert matched(held, parse({"k": {"$gte": count - 3}}).test) == [count - 3, count - 2, count - 1]
    one = held.replaced([5], ["new"])
    assert matched(one, equal_to("new")) == [5] and matched(one, equal_to(5)) == []
    assert matched(held, equal_to(5)) == [5] and matched(held, equal_to("new")) == []


def test_more_values_than_are_remembered():
    """The same value may then have several entries: all of them answer."""
    texts = [f"{i % 70_000:x}" for i in range(140_500)]
    held, parts = Column("k"), 50_000
    for start in range(0, len(texts), parts):
        held = held.extended(texts[start : start + parts])
    assert 70_001 <= len(held.dictionary) <= 140_501
    for i in (0, 1, 499, 500, 69_999):
        assert matched(held, equal_to(f"{i:x}")) == list(range(i, len(texts), 70_000))
    assert matched(held, parse({"k": {"$in": ["0", "1", "no"]}}).test) == [0, 1, 70_000, 70_001, 140_000, 140_001]
    assert len(matched(held, Exists())) == len(texts)


def test_a_field_that_changes_all_the_time_keeps_few_entries():
    held = column([f"{i}" for i in range(20)])
    first = held
    for turn in range(200):
        held = held.replaced(range(20), [[f"{turn}.{i}", i] for i in range(20)])
        assert len(held.dictionary) <= 2 * 20 + 1000 + 80
    assert_holds(held, [[f"199.{i}", i] for i in range(20)])
    assert_holds(first, [f"{i}" for i in range(20)])


def test_compacted_lists_and_texts_keep_what_they_hold():
    kinds = ["text", 5, 2.5, 10**30, {"a": 1}, [1, "x", [2, ["deep"]]], None, True, NOTHING, ["x", {"b": [3]}]]
    held = column([*kinds, *[[i, f"{i}"] for i in range(700)]])
    kept = held.replaced(range(10, 710), kinds[:7] * 100)
    assert len(held.dictionary) > 2000
    again = kept.replaced(range(10, 710), [NOTHING] * 700)
    for turn in range(300):
        again = again.replaced(range(10, 20), [f"{turn} {i}" for i in range(10)])
    assert len(again.dictionary) < len(held.dictionary) + 10
    assert_holds(again, [*kinds, *[f"299 {i}" for i in range(10)], *[NOTHING] * 690])
    assert_holds(kept, [*kinds, *kinds[:7] * 100])
    assert matched(kept, parse({"k": "x"}).test)[:2] == [5, 9]


def test_nothing_is_replaced_and_nothing_added():
    held = column([1, "a"])
    assert_holds(held.replaced([], []), [1, "a"])
    assert_holds(held.extended([]), [1, "a"])
    assert_holds(Column("k").extended([]), [])
    assert_holds(Column("k").extended([NOTHING] * 100), [NOTHING] * 100)


def test_values_that_end_in_an_interrupt_leave_a_column_as_it_was():
    def interrupted():
        yield "b"
        raise KeyboardInterrupt

    held = column([1, "a"])
    with pytest.raises(KeyboardInterrupt):
        held.extended(interrupted())
    assert_holds(held, [1, "a"])
    assert_holds(held.extended(["b", "a"]), [1, "a", "b", "a"])


def test_memory_is_told():
    small, large = column(["a"]), column([f"value {i}" for i in range(5000)])
    assert 0 < small.nbytes < 10_000 < 5000 * 20 < large.nbytes < 5000 * 400


# ---- equality


ALIKE = [
    (1, 1.0),
    (2**53, 2.0**53),
    (0, -0.0),
    (2**63, 2.0**63),
    ([1, [2]], (1.0, [2.0])),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1.0}),
]
APART = [
    (1, True), (0, False), (1, "1"), (None, "null"), (None, False), ("", None), ([1], 1), ([[1]], [1]), ([], None),
    ([], {}), ({"a": 1}, {"a": 2}), (2**53, 2**53 + 1), (2**63 - 1, 2.0**63), (10**40, 10**40 + 1), (5e-324, 0),
    (2**63 - 1, 2**63), (-(2**63), -(2**63) - 1), ("('number', 1)", 1), ([1, 2], [2, 1]), ("a", "a\x00"), ("a", "A"),
    ("é", "e\u0301"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), ALIKE)
def test_values_that_are_equal_have_one_entry(a, b):
    held = column([a, b, a])
    assert len(set(held.codes.tolist())) == 1
    assert matched(held, equal_to(b)) == matched(held, equal_to(a)) == [0, 1, 2]


@pytest.mark.parametrize(("a", "b"), APART)
def test_values_that_are_not_equal_have_two(a, b):
    held = column([a, b])
    assert len(set(held.codes.tolist())) == 2
    assert matched(held, equal_to(a)) == [0] and matched(held, equal_to(b)) == [1]


@settings(max_examples=often(200), deadline=None)
@given(given=st.lists(whole, min_size=1, max_size=8), other=whole)
def test_an_entry_equals_what_the_slow_filter_calls_the_same(given, other):
    held = column(given)
    for i, value in enumerate(given):
        entry = int(held.codes[i])
        assert held.dictionary.entries.equals(entry, typed(value))
        assert held.dictionary.entries.equals(entry, typed(other)) == slow_filters.same(value, other)
        assert held.dictionary.entries.marks[entry] == mark_of(typed(value))


def test_marks_that_agree_are_looked_at_twice():
    """Two words with the same checksum, and the same lower half of others."""
    same = ["plumless", "buckeroo"]
    assert mark_of(("string", same[0])) == mark_of(("string", same[1]))
    held = column([*same, "c", *same])
    for wanted in (same[:1], same[1:], same, [*same, "c"], [same[0], "d"], ["d"]):
        expected = [i for i, each in enumerate([*same, "c", *same]) if each in wanted]
        assert matched(held, OneOf(tuple(typed(each) for each in wanted))) == expected
    assert len(set(held.codes.tolist())) == 3


# ---- tests against the slow twin


@settings(max_examples=often(300), deadline=None)
@given(
    given=some_values,
    name=st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$contains", "$exists"]),
    operand=scalars,
)
def test_one_operand_is_answered_as_by_the_slow_twin(given, name, operand):
    if name == "$exists":
        operand = bool(operand)
    if name in ("$gt", "$gte", "$lt", "$lte") and slow_filters.kind(operand) not in ("number", "string"):
        operand = 1
    assert_answers(given, {name: operand})


@settings(max_examples=often(300), deadline=None)
@given(
    given=some_values,
    name=st.sampled_from(["$in", "$nin", "$any", "$all"]),
    operands=st.lists(st.one_of(scalars, whole), max_size=4),
)
def test_several_operands_are_answered_as_by_the_slow_twin(given, name, operands):
    assert_answers(given, {name: operands})
    chosen = [value for value in given if value is not NOTHING][:2]
    assert_answers(given, {name: chosen})
    inner = [element for value in chosen if isinstance(value, list) for element in value]
    assert_answers(given, {name: inner})


@settings(max_examples=often(300), deadline=None)
@given(
    given=st.lists(
        st.one_of(st.text("abAÉéß%_", max_size=5), st.lists(st.text("abAé", max_size=3), max_size=2)), max_size=9
    ),
    name=st.sampled_from(["$like", "$ilike"]),
    pattern=st.text("abAéß%_", max_size=5),
)
def test_patterns_are_answered_as_by_the_slow_twin(given, name, pattern):
    assert_answers(given, {name: pattern})
    assert_answers(given, {name: f"%{pattern}%"})


@settings(max_examples=often(200), deadline=None)
@given(
    given=some_values,
    ends=st.one_of(st.tuples(*[st.sampled_from(INTS + FLOATS)] * 2), st.tuples(*[st.sampled_from(TEXTS)] * 2)),
)
def test_ranges_are_answered_as_by_the_slow_twin(given, ends):
    assert_answers([*given, *INTS, *FLOATS, *TEXTS], {"$between": list(ends)})
    assert_answers([*given, *INTS, *FLOATS, *TEXTS], {"$gt": ends[0], "$lte": ends[1]})


def assert_answers(given, condition):
    """A condition on a field is answered as one document after the other would be."""
    held = column(given)
    tree = parse({"k": condition}) or EVERYTHING
    bits = evaluate.evaluate(tree, held.n, lambda field: evaluate.matching(held, field.test))
    documents = [slow_filters.ABSENT if value is NOTHING else slow_filters.stored(value) for value in given]
    expected = [all(slow_filters.holds(value, *each) for each in condition.items()) for value in documents]
    assert ordinals(bits, held.n) == np.flatnonzero(expected).tolist()
    assert bits.shape == (-(-held.n // 64),) and count(bits) == sum(expected)


# ---- trees of bitmaps


SIZES = (0, 1, 63, 64, 65, 128, 200)


@pytest.mark.parametrize("n", SIZES)
def test_bitmaps_are_made_counted_and_read(n):
    for share in (0, 0.3, 1):
        mask = np.random.default_rng(n).random(n) < share
        bits = to_bitmap(mask)
        assert bits.dtype == np.uint64 and bits.shape == (-(-n // 64),)
        assert count(bits) == mask.sum()
        np.testing.assert_array_equal(to_mask(bits, n), mask)
    np.testing.assert_array_equal(everything(n), to_bitmap(np.ones(n, bool)))


def test_bits_are_counted_without_the_counting_of_numpy_2(monkeypatch):
    mask = np.random.default_rng(0).random(1000) < 0.3
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count(to_bitmap(mask)) == mask.sum()


fields = st.sampled_from("abc").map(lambda key: Field(key, Exists()))
trees = st.recursive(
    fields,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=8,
)


def meaning(tree, masks):
    if isinstance(tree, Field):
        return masks[tree.key]
    if isinstance(tree, Not):
        return ~meaning(tree.part, masks)
    parts = [meaning(part, masks) for part in tree.parts]
    outcome = np.ones_like(masks["a"]) if isinstance(tree, And) else np.zeros_like(masks["a"])
    for part in parts:
        outcome = outcome & part if isinstance(tree, And) else outcome | part
    return outcome


@settings(max_examples=often(200), deadline=None)
@given(tree=trees, n=st.sampled_from(SIZES), seed=st.integers(0, 2**32 - 1))
def test_trees_are_evaluated_as_they_are_meant(tree, n, seed):
    """The bits behind the last stay 0, under Not, too; the bitmaps of the fields stay as they are."""
    rng = np.random.default_rng(seed)
    masks = {key: rng.random(n) < 0.5 for key in "abc"}
    bitmaps = {key: to_bitmap(mask) for key, mask in masks.items()}
    for bits in bitmaps.values():
        bits.flags.writeable = False
    bits = evaluate.evaluate(tree, n, lambda field: bitmaps[field.key])
    expected = meaning(tree, masks)
    np.testing.assert_array_equal(bits, to_bitmap(expected))
    assert count(bits) == expected.sum()


def test_fields_of_documents_by_exact_key_and_by_path():
    document = {"a": {"b": {"c": 1}, "x.y": 2}, "a.b": 3, "n": None, "l": [{"z": 1}]}
    expected = {"a.b": 3, "a.b.c": 1, "n": None, "a": document["a"], "l": document["l"]}
    for key, value in expected.items():
        assert field_of(document, key) == value
    for key in ("a.x", "a.x.y", "l.z", "n.a", "", "a.", ".a", "b", "l.0"):
        assert field_of(document, key) is NOTHING


# ---- arrays from a file


def parts_of(given):
    held = column(given)
    return held, {name: array.copy() for name, array in held.parts(held.n).items()}


MIXED = ["a", "bc", 5, 2.5, 10**30, {"a": 1}, [1, "x"], [[2], "a"], None, True, False, NOTHING, "é", "a"]


def test_what_parts_give_is_restored():
    held, arrays = parts_of(MIXED)
    assert tuple(arrays) == NAMES
    again = Column.restored("k", arrays, len(MIXED))
    assert again.key == "k"
    assert_holds(again, MIXED)
    assert len(again.extended(["bc", 5, [1, "x"], 10**30]).dictionary) == len(held.dictionary)  # known still
    assert_holds(again.extended(["bc", "new"]), [*MIXED, "bc", "new"])
    assert_holds(again, MIXED)


@pytest.mark.parametrize("n", [0, 1, 7, 14])
def test_parts_of_the_first_few(n):
    held = column(MIXED)
    assert_holds(Column.restored("k", held.parts(n), n), MIXED[:n])


@pytest.mark.parametrize("name", NAMES)
def test_an_array_that_is_missing_is_a_key_error(name):
    _, arrays = parts_of(MIXED)
    del arrays[name]
    with pytest.raises(KeyError):
        Column.restored("k", arrays, len(MIXED))


@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_another_type_or_shape_are_refused(name):
    _, arrays = parts_of(MIXED)
    wrong = [arrays[name].astype(dtype) for dtype in (np.float32, np.int16, np.uint64, bool)]
    wrong += [arrays[name][None], arrays[name].reshape(1, -1), np.zeros((), arrays[name].dtype)]
    if name == "codes":
        wrong += [arrays[name][:-1], np.append(arrays[name], arrays[name][:1]), arrays[name].astype(np.int8)]
    for array in wrong:
        with pytest.raises(ValueError, match="a column"):
            Column.restored("k", {**arrays, name: array}, len(MIXED))


@pytest.mark.parametrize("name", NAMES[1:])
def test_arrays_of_other_lengths_are_refused(name):
    """But for a heap and members that have something behind what is in use."""
    _, arrays = parts_of(MIXED)
    for array in (arrays[name][:-1], arrays[name][:0], np.append(arrays[name], arrays[name][-1:])):
        if name in ("heap", "members") and len(array) > len(arrays[name]):
            continue
        with pytest.raises(ValueError, match="a column"):
            Column.restored("k", {**arrays, name: array}, len(MIXED))


def first_of(arrays, kind):
    return int(np.flatnonzero(arrays["kinds"] == kind)[0])


def changes(arrays):
    """Numbers that lead out of an array, each by itself."""
    count, texts = len(arrays["kinds"]), len(arrays["heap"])
    held = len(arrays["members"])
    yield "codes", 0, count
    yield "codes", -1, np.iinfo(arrays["codes"].dtype).max
    yield "kinds", 0, INT
    yield "kinds", 3, 10
    yield "kinds", count - 1, 255
    for kind, limit in ((STRING, texts), (BIG, texts), (DICT, texts), (LIST, held)):
        entry = first_of(arrays, kind)
        yield "values", entry, -1
        yield "values", entry, limit << LENGTH_BITS | 1
        yield "values", entry, limit + 1
        yield "values", entry, LENGTH_MASK
        yield "values", entry, (1 << 39) - 1 << LENGTH_BITS
        yield "values", entry, -(2**63)
    for member in (-1, 0, count, 2**31 - 1, -(2**31)):
        yield "members", 0, member
        yield "members", held - 1, member


def test_numbers_that_lead_out_of_an_array_are_refused():
    _, arrays = parts_of(MIXED)
    done = 0
    for name, place, number in changes(arrays):
        wrong = arrays[name].copy()
        wrong[place] = number
        with pytest.raises(ValueError, match="a column"):
            Column.restored("k", {**arrays, name: wrong}, len(MIXED))
        done += 1
    assert done > 30


def test_lists_that_hold_themselves_are_refused():
    """Directly, or in a circle; a walk through such a one would not end."""
    for contents in ([[1], [2]], [[[1]], [[2]]]):
        _, arrays = parts_of(contents)
        lists = np.flatnonzero(arrays["kinds"] == LIST)
        for holder in lists.tolist():
            for held in lists[lists >= holder].tolist():
                wrong = arrays["members"].copy()
                wrong[int(arrays["values"][holder] >> LENGTH_BITS)] = held
                with pytest.raises(ValueError, match="hold themselves"):
                    Column.restored("k", {**arrays, "members": wrong}, len(contents))


CONDITIONS = (
    {"$eq": "a"}, {"$in": ["a", 5, None]}, {"$gt": 2}, {"$lt": 10**31}, {"$between": ["a", "b"]}, {"$like": "%a%"},
    {"$like": "_"}, {"$ilike": "%A"}, {"$contains": "a"}, {"$any": [1, 2]}, {"$all": [1, "x"]}, {"$exists": True},
    {"$eq": [[2], "a"]}, {"$eq": {"a": 1}}, {"$eq": 10**30},
)  # fmt: skip


@settings(max_examples=often(400), deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(0, 10**6), st.integers(0, 63), st.booleans()),
        min_size=1,
        max_size=4,
    ),
)
def test_damaged_arrays_are_refused_or_answered_within_their_bounds(changes):
    """Some damage makes other values, which sums tell; what is answered is of this column, and no search falls over."""
    _, arrays = parts_of(MIXED)
    for name, place, bit, cut in changes:
        array = arrays[name]
        if cut:
            arrays[name] = array[: place % (len(array) + 1)]
        elif len(array):
            array = array.copy()
            array.view(np.uint8)[place % array.nbytes] ^= np.uint8(1 << bit % 8)
            arrays[name] = array
    try:
        held = Column.restored("k", arrays, len(MIXED))
    except ValueError:
        return
    for condition in CONDITIONS:
        try:
            bits = evaluate.evaluate(parse({"k": condition}), held.n, lambda field: evaluate.matching(held, field.test))
        except ValueError:  # bytes that are no text, or a number that is none
            continue
        assert bits.shape == (1,) and int(bits[0]) < 2**held.n


def test_restored_arrays_are_kept_and_never_written():
    """They may be mapped from a file that others read."""
    _, arrays = parts_of(MIXED)
    before = copy.deepcopy(arrays)
    for array in arrays.values():
        array.flags.writeable = False
    held = Column.restored("k", arrays, len(MIXED))
    assert held.codes is not None and np.shares_memory(held.codes, arrays["codes"])
    assert np.shares_memory(held.dictionary.entries.heap, arrays["heap"])
    more = held.extended(["new", [7]]).replaced([0, 1], ["other", NOTHING])
    assert_holds(more, ["other", NOTHING, *MIXED[2:], "new", [7]])
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


# ---- the dictionary by itself


def test_the_first_entry_is_of_what_is_not_there():
    dictionary = Dictionary()
    assert len(dictionary) == 1 and dictionary.entries.kinds.tolist() == [0]
    assert dictionary.enter([NOTHING, NOTHING]).tolist() == [0, 0]
    assert dictionary.enter([]).tolist() == [] and len(dictionary) == 1


def test_kinds_of_entries():
    dictionary = Dictionary()
    numbers = dictionary.enter([None, False, True, -(2**63), 2.5, 2**63, "a", [1], {"a": 1}])
    names = [dictionary.entries.kinds[number] for number in numbers]
    assert names == [1, 2, 3, INT, FLOAT, BIG, STRING, LIST, DICT]
    entries = dictionary.entries
    assert entries.values[numbers[3]] == -(2**63)
    assert entries.values[numbers[4:5]].view(np.float64)[0] == 2.5
    start, length = divmod(int(entries.values[numbers[6]]), 2**LENGTH_BITS)
    assert entries.heap[start : start + length].tobytes() == b"a"


def test_only_the_entries_in_use_with_all_that_they_hold():
    dictionary = Dictionary()
    numbers = dictionary.enter(["a", [1, ["b"]], "c", {"d": 1}, 10**30])
    for kept in ([], [0], [1], [3, 4], [0, 1, 2, 3, 4]):
        less, moved = dictionary.only(numbers[kept])
        assert less.entries.kinds[0] == 0 and len(less) <= len(dictionary)
        for i in kept:
            value = ("a", [1, ["b"]], "c", {"d": 1}, 10**30)[i]
            assert less.entries.equals(int(moved[numbers[i]]), typed(value))
        assert len(less.entries.heap) <= len(dictionary.entries.heap)
    less, _ = dictionary.only(numbers[[1]])
    assert len(less) == 5  # the list, what it holds, and what that holds


def test_entries_that_do_not_fit_each_other():
    empty = Dictionary().entries
    assert len(Dictionary.restored(empty)) == 1
    with pytest.raises(ValueError, match="fit"):
        Dictionary.restored(Entries(*(array[:0] for array in empty)))


@settings(max_examples=often(100), deadline=None)
@given(st.lists(whole, max_size=6))
def test_texts_of_typed_values_tell_them_apart(given):
    """As the heap and the marks have them."""
    known = [typed(value) for value in given]
    by_text = {}
    for each in known:
        assert by_text.setdefault((each[0], text_of(each)), each) == each
        assert 0 <= mark_of(each) < 2**32
    assert len(by_text) == len(set(known))


def test_a_large_integer_of_other_letters_is_refused():
    _, arrays = parts_of([10**30, "a"])
    heap = arrays["heap"].copy()
    heap[heap == ord("1")] = ord("x")
    with pytest.raises(ValueError, match="no large integers"):
        Column.restored("k", {**arrays, "heap": heap}, 2)


@pytest.mark.parametrize(("width", "depth", "words"), [(1, 300, "nest deeper"), (8, 30, "are longer")])
def test_lists_that_metadata_could_not_hold_are_refused(width, depth, words):
    """Each holds the one before it, so often: walking them would take years, or all memory."""
    kinds = np.array([0, INT, *[LIST] * depth], np.uint8)
    starts = np.arange(depth, dtype=np.int64) * width
    values = np.concatenate([[0, 7], starts << LENGTH_BITS | width]).astype(np.int64)
    members = np.repeat(np.arange(1, depth + 1, dtype=np.int32), width)
    entries = Entries(kinds, values, np.zeros(depth + 2, np.uint32), np.zeros(0, np.uint8), members)
    with pytest.raises(ValueError, match=f"a column's lists {words}"):
        Dictionary.restored(entries)


def test_of_a_large_file_entries_are_not_remembered_and_answers_are_the_same(monkeypatch):
    _, arrays = parts_of(MIXED)
    monkeypatch.setattr(dictionary, "_REMEMBERED", 3)
    monkeypatch.setattr(dictionary, "_MEMBERS", 1)
    again = Column.restored("k", arrays, len(MIXED)).extended([[1, "x"], [1, "x"], "new", "new"])
    assert_holds(again, [*MIXED, [1, "x"], [1, "x"], "new", "new"])
    texts = list("abcde")
    again = Column.restored("k", parts_of(texts)[1], 5).extended(["a", "new"])
    assert_holds(again, [*texts, "a", "new"])


def test_ids_that_are_cut_inside_of_a_character_are_refused():
    data = np.frombuffer("é".encode(), np.uint8)
    with pytest.raises(ValueError, match="the ids are cut inside of a character"):
        Ids.restored(data, np.array([0, 1, 2]), 2)


def test_ids_are_the_same_whatever_is_remembered_of_them(monkeypatch):
    monkeypatch.setattr(id_column, "_DECODED", 3)
    ids = Ids().extended([f"é{i}" for i in range(20)])
    for _ in range(2):
        assert ids.take(np.arange(20, dtype=np.int32)).tolist() == [f"é{i}" for i in range(20)]
    assert ids.take(np.array([-1, 3], np.int32)).tolist() == [None, "é3"]
