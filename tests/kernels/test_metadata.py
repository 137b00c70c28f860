"""The kernels of metadata columns against their naive versions; damaged entries lead nowhere."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.index import warm_up
from bqstore.kernels import metadata
from bqstore.kernels.metadata import ANY_CHARACTER, ANY_RUN, ASK, BIG, DICT, FLOAT, INT, LENGTH_BITS, LIST, STRING
from tests import naive
from tests.kernels.given import INTERPRETED, examples, fenced

EXAMPLES = examples(200)
SIZES = (0, 1, 2, 63, 64, 65, 127, 128, 200)
CODES = (np.uint8, np.uint16, np.uint32)
LEAST, MOST = -(2**63), 2**63 - 1
INTS = (LEAST, LEAST + 1, -(2**53) - 1, -1, 0, 1, 2**53, 2**53 + 1, MOST - 1, MOST)
FLOATS = (-np.inf, -1.7e308, -1.5, -0.0, 0.0, 5e-324, 0.1, 1.5, 2.0**53, 2.0**63, 1.7e308, np.inf, np.nan)
KINDS = st.integers(0, 9)
LETTERS = "ab%_AZé√𝄞\x00"  # of one to four bytes
TEXTS = st.text(LETTERS, max_size=8)


def filled(count, dtype=np.uint8):
    """What a table holds before it is written."""
    return np.full(count, 77, dtype)


def heap_of(pieces):
    """The heap of pieces, one behind the other, and the value of each."""
    values, at = [], 0
    for piece in pieces:
        values.append(at << LENGTH_BITS | len(piece))
        at += len(piece)
    return np.frombuffer(b"".join(pieces), np.uint8).copy(), np.array(values, np.int64)


def strings(texts):
    """Kinds, values and heap of some strings, a number among them that looks like the first."""
    heap, values = heap_of([text.encode() for text in texts])
    kinds = np.full(len(texts) + 1, STRING, np.uint8)
    kinds[-1] = BIG
    return kinds, np.append(values, values[:1] if len(values) else 0), heap


def parts(pattern):
    """A pattern as the kernels have it, int16; nothing escapes."""
    out = []
    for character in pattern:
        out += {"%": [ANY_RUN], "_": [ANY_CHARACTER]}.get(character, character.encode())
    return np.array(out, np.int16)


# ---- numbers of entries


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("n", SIZES)
def test_a_table_is_spread_over_codes(n, dtype):
    """Also a table of fewer entries than there are codes, and of none."""
    rng = np.random.default_rng(n)
    for entries in (0, 1, 3, 200, 256, 300):
        codes = rng.integers(0, 256 if entries else 3, n).astype(dtype)
        table = rng.integers(0, 2, entries).astype(np.uint8)
        out, untouched = fenced(filled(-(-n // 64), np.uint64))
        count = metadata.spread(codes, table, out)
        expected = naive.spread(codes, table)
        np.testing.assert_array_equal(out, expected)
        assert count == sum(int(word).bit_count() for word in expected)
        assert untouched()


@pytest.mark.parametrize("dtype", CODES)
def test_codes_at_the_ends_of_their_type(dtype):
    last = np.iinfo(dtype).max
    codes = np.array([0, 1, last, last - 1, last // 2, last // 2 + 1] * 11, dtype)
    for entries in (1, 2, 100, min(int(last) + 1, 70_000)):
        table, out = np.ones(entries, np.uint8), filled(2, np.uint64)
        assert metadata.spread(codes, table, out) == int((codes < entries).sum())
        np.testing.assert_array_equal(out, naive.spread(codes, table))


@pytest.mark.parametrize("words", [0, 1, 2, 3, 5])
def test_a_bitmap_of_another_length_is_filled_as_far_as_it_goes(words):
    codes, table = np.arange(130, dtype=np.uint8), np.ones(256, np.uint8)
    out, untouched = fenced(filled(words, np.uint64))
    assert metadata.spread(codes, table, out) == min(130, 64 * words)
    np.testing.assert_array_equal(out, [*naive.spread(codes, table), 0, 0][:words])
    assert untouched()


@pytest.mark.parametrize("d", [*SIZES, 255, 256, 300])
def test_wanted_marks_are_sifted(d):
    rng = np.random.default_rng(d)
    marks = rng.integers(0, 2**32, d, dtype=np.uint32)
    for lower in ([], marks & 0xFFFF, marks[: d // 2] & 0xFFFF, rng.integers(0, 2**16, 5)):
        wanted = np.zeros(1 << 16, np.uint8)
        wanted[lower] = 1
        out, untouched = fenced(filled(d, np.int32))
        count = metadata.sift(marks, wanted, out)
        assert out[:count].tolist() == [i for i in range(d) if wanted[int(marks[i]) % 2**16]]
        assert untouched()


@pytest.mark.parametrize("room", [0, 1, 9])
def test_no_more_are_sifted_than_there_is_room_for(room):
    out, untouched = fenced(filled(room, np.int32))
    assert metadata.sift(np.zeros(20, np.uint32), np.ones(1 << 16, np.uint8), out) == room
    assert out.tolist() == list(range(room)) and untouched()


# ---- numbers


def numbers():
    """Every integer and float there is to be told apart, and entries of other kinds with the same bits."""
    bits = np.concatenate([np.array(INTS, np.int64), np.array(FLOATS).view(np.int64)])
    kinds = [INT] * len(INTS) + [FLOAT] * len(FLOATS)
    others = [kind for kind in range(10) for _ in range(len(bits))]
    return np.array(kinds + others, np.uint8), np.concatenate([bits] * 11)


@pytest.mark.parametrize("low", [LEAST, -1, 0, 2**53 + 1, MOST])
@pytest.mark.parametrize("high", [LEAST, 0, 2**53, MOST - 1, MOST])
def test_numbers_between_two(low, high):
    kinds, values = numbers()
    for ends in ((-np.inf, np.inf), (0.0, 1.5), (1.5, 0.0), (np.inf, np.inf), (np.nan, 1.0), (-0.0, 0.0)):
        table, untouched = fenced(filled(len(kinds)))
        metadata.numbers_between(kinds, values, low, high, np.array(ends), table)
        assert table.tolist() == naive.numbers_between(kinds, values, low, high, ends)
        assert untouched()


@pytest.mark.parametrize("n", SIZES)
def test_tables_of_any_length(n):
    """Of the shorter of kinds and table."""
    kinds, values = np.full(n, INT, np.uint8), np.arange(n)
    for length in (0, n // 2, n, n + 3):
        table, untouched = fenced(filled(length))
        metadata.numbers_between(kinds, values, 2, 100, np.array([0.0, 1.0]), table)
        assert table.tolist() == [*(int(2 <= i <= 100) for i in range(min(n, length))), *[77] * (length - n)]
        assert untouched()


# ---- strings


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    texts=st.lists(TEXTS, max_size=12),
    low=TEXTS,
    high=TEXTS,
    least=st.sampled_from([-1, 0, 1]),
    most=st.sampled_from([-1, 0, 1]),
)
def test_strings_between_two(texts, low, high, least, most):
    """In the order of code points, which is that of the bytes."""
    kinds, values, heap = strings([*texts, low, high, low + "a"])
    table, untouched = fenced(filled(len(kinds)))
    ends = [np.frombuffer(end.encode(), np.uint8).copy() for end in (low, high)]
    metadata.strings_between(kinds, values, heap, ends[0], least, ends[1], most, table)
    assert table.tolist() == naive.strings_between(kinds, values, heap, low.encode(), least, high.encode(), most)
    assert untouched()
    for i, text in enumerate(texts):
        above = least < 0 or (text > low if least else text >= low)
        below = most > 0 or (text < high if most else text <= high)
        assert table[i] == (above and below)


def test_of_strings_that_begin_alike_the_shorter_comes_first():
    texts = ["", "a", "ab", "abc", "abd", "abé", "b", "\x00", "a\x00"]
    kinds, values, heap = strings(texts)
    nothing = np.zeros(0, np.uint8)
    for end in texts:
        wanted = np.frombuffer(end.encode(), np.uint8).copy()
        for least in (0, 1):
            table = filled(len(kinds))
            metadata.strings_between(kinds, values, heap, wanted, least, nothing, 1, table)
            assert table[:-1].tolist() == [text > end if least else text >= end for text in texts]
        for most in (0, -1):
            table = filled(len(kinds))
            metadata.strings_between(kinds, values, heap, nothing, -1, wanted, most, table)
            assert table[:-1].tolist() == [text < end if most else text <= end for text in texts]


def like(texts, pattern, folded=False):
    """What the kernel and the naive version say of each text, which is the same."""
    kinds, values, heap = strings(texts)
    table, untouched = fenced(filled(len(kinds)))
    metadata.strings_like(kinds, values, heap, parts(pattern), folded, table)
    assert untouched()
    assert table.tolist() == naive.strings_like(kinds, values, heap, parts(pattern).tolist(), folded)
    assert table[-1] == 0
    return table[:-1].tolist()


def matched(text, pattern, flags=0):
    """The same by a regular expression."""
    translated = "".join({"%": ".*", "_": "."}.get(c) or re.escape(c) for c in re.sub("%+", "%", pattern))
    return bool(re.fullmatch(translated, text, re.DOTALL | flags))


@settings(max_examples=EXAMPLES, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8), pattern=st.text(LETTERS, max_size=7))
def test_strings_like_a_pattern(texts, pattern):
    assert like(texts, pattern) == [matched(text, pattern) for text in texts]


@settings(max_examples=EXAMPLES, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8), pattern=st.text("ab_%z", max_size=7))
def test_strings_like_a_pattern_without_case(texts, pattern):
    """The pattern is in small letters; what is not ASCII is left to those who know its case."""
    expected = [int(matched(text.lower(), pattern)) if text.isascii() else ASK for text in texts]
    assert like(texts, pattern, folded=True) == expected


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=st.text("abé", max_size=12), cuts=st.lists(st.integers(0, 12), max_size=4), ends=st.integers(0, 3))
def test_patterns_made_of_pieces_of_the_text(text, cuts, ends):
    """So that most of them are met; pieces in any order, so that some are not."""
    pattern = "%".join(text[cut : cut + 3] for cut in cuts)
    pattern = "%" * (ends & 1) + pattern + "%" * (ends >> 1)
    others = [text, text[1:], text[:-1], text + "b", "a" + text, ""]
    assert like(others, pattern) == [matched(other, pattern) for other in others]


PATTERNS = {
    "": {"": 1, "a": 0},
    "%": {"": 1, "a": 1, "é": 1},
    "_": {"": 0, "a": 1, "é": 1, "𝄞": 1, "ab": 0, "√√": 0},
    "__": {"é√": 1, "a": 0, "𝄞": 0},
    "_%": {"": 0, "𝄞": 1, "𝄞a": 1},
    "%_": {"": 0, "𝄞": 1, "a𝄞": 1},
    "a%a": {"a": 0, "aa": 1, "aba": 1, "ab": 0},
    "%ab%": {"ab": 1, "aab": 1, "a": 0, "ba": 0, "b": 0, "": 0},
    "%aab": {"aaab": 1, "aab": 1, "aaba": 0},
    "%a_b%": {"aaéb": 1, "ab": 0, "a𝄞b": 1},
    "_é_": {"aéa": 1, "ééé": 1, "éé": 0},
    "%é": {"√é": 1, "√": 0, "é": 1},
    "a%b%c": {"abc": 1, "acbc": 1, "acb": 0, "abcb": 0},
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_one_by_one(pattern):
    assert like(list(PATTERNS[pattern]), pattern) == list(PATTERNS[pattern].values())


def test_a_pattern_of_many_runs_ends_soon():
    """Backtracking through all of them would take 2^40 steps."""
    kinds, values, heap = strings(["a" * 60 + "b", "a" * 60])
    table = filled(3)
    metadata.strings_like(kinds, values, heap, parts("%a" * 40 + "%c"), False, table)
    assert table.tolist() == [0, 0, 0]
    metadata.strings_like(kinds, values, heap, parts("%a" * 40 + "%b"), False, table)
    assert table.tolist() == [1, 0, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 254, 255, 256, 257, 300, *(() if INTERPRETED else (600,))])
def test_pieces_as_long_as_a_step_and_longer(size):
    """A piece is looked for in steps of its own length, of at most a byte; all its letters may be the same."""
    rng = np.random.default_rng(size)
    random = "".join(rng.choice(list("abé"), size))
    for piece in (
        "a" * size,
        "ab" * (size // 2) + "a" * (size % 2),
        "a" * (size - 1) + "b",
        "b" + "a" * (size - 1),
        random,
    ):
        around = "".join(rng.choice(list("abé"), 40))
        texts = [piece, around + piece, piece + around, around + piece + around, piece[1:], piece[:-1], around]
        texts += [piece[1:] + "a" * 9 + piece[:-1], piece[: size // 2] + "é" + piece[size // 2 :], piece.upper()]
        for pattern in (f"%{piece}%", f"{piece}%", f"%{piece}", piece):
            kinds, values, heap = strings(texts)
            for folded in (False, True):
                table, untouched = fenced(filled(len(kinds)))
                metadata.strings_like(kinds, values, heap, parts(pattern), folded, table)
                found = [matched(text.lower() if folded else text, pattern) for text in texts]
                ascii_only = [text.isascii() or not folded for text in texts]
                assert table[:-1].tolist() == [f if a else ASK for f, a in zip(found, ascii_only, strict=True)]
                assert untouched()


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=st.text("ab", max_size=40), piece=st.text("ab", min_size=1, max_size=9), folded=st.booleans())
def test_pieces_of_two_letters(text, piece, folded):
    """Which are met half a piece further on, again and again."""
    texts = [text, text + piece, piece[1:] + text + piece[:-1]]
    texts = [each.upper() for each in texts] if folded else texts
    for pattern in (f"%{piece}%", f"{piece}%", f"%{piece}"):
        assert like(texts, pattern, folded) == [matched(each.lower(), pattern) for each in texts]


@pytest.mark.parametrize("pattern", ["", "%", "%%", "a", "%a%", "_", "%_%"])
def test_an_empty_heap(pattern):
    assert like(["", ""], pattern) == [int(pattern in ("", "%", "%%"))] * 2
    assert like([], pattern) == []


@pytest.mark.parametrize("letter", ["@", "A", "M", "Z", "[", "`", "a", "z", "{", "\x7f", "\x00"])
def test_only_letters_have_a_case(letter):
    for pattern in ("@", "a", "m", "z", "[", "`", "{", "\x00", "\x7f"):
        assert like([letter], pattern, folded=True) == [letter.lower() == pattern]
        assert like(["x" + letter], f"%{pattern}%", folded=True) == [letter.lower() == pattern]


# ---- lists


def entries_with_lists(rng, d):
    """Kinds, values and members of random entries, lists of lists among them."""
    kinds = rng.choice([INT, STRING, LIST, LIST, DICT], d).astype(np.uint8)
    if d:
        kinds[0] = 0
    values, members = np.zeros(d, np.int64), []
    for i in np.flatnonzero(kinds == LIST).tolist():
        held = rng.integers(1, i, rng.integers(0, 5)).tolist() if i > 1 else []
        values[i] = len(members) << LENGTH_BITS | len(held)
        members += held
    return kinds, values, np.array(members, np.int32)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("d", SIZES)
def test_lists_by_any_of_their_members(d, keep):
    rng = np.random.default_rng(d)
    for _ in range(5):
        kinds, values, members = entries_with_lists(rng, d)
        own = rng.integers(0, 2, d).astype(np.uint8)
        for length in (d, d // 2, d + 2):
            table, untouched = fenced(filled(length))
            metadata.any_member(kinds, values, members, own, keep, table)
            expected = naive.any_member(kinds, values, members, own, keep)[:length]
            assert table.tolist() == [*expected, *[77] * (length - d)] and untouched()


@pytest.mark.parametrize("m", [0, 1, 2, 5])
@pytest.mark.parametrize("d", SIZES)
def test_lists_by_every_member(d, m):
    rng = np.random.default_rng(10 * d + m)
    for _ in range(5):
        kinds, values, members = entries_with_lists(rng, d)
        which = rng.integers(-1, max(m, 1), d).astype(np.int32)
        table, untouched = fenced(filled(d))
        stamps, whole = fenced(np.full(m, -1, np.int32))
        metadata.every_member(kinds, values, members, which, stamps, table)
        assert table.tolist() == naive.every_member(kinds, values, members, which, m)
        assert untouched() and whole()


def test_a_member_counts_once():
    """A list of one value five times is not one of two."""
    kinds = np.array([0, INT, INT, LIST, LIST, LIST], np.uint8)
    members = np.array([1, 1, 1, 2, 1, 1], np.int32)
    values = np.array([0, 5, 6, 3, 1 << LENGTH_BITS | 4, 6 << LENGTH_BITS], np.int64)
    table = filled(6)
    which = np.array([-1, 0, 1, -1, -1, -1], np.int32)
    metadata.every_member(kinds, values, members, which, np.full(2, -1, np.int32), table)
    assert table.tolist() == [0, 0, 0, 0, 1, 0]
    metadata.every_member(kinds, values, members, np.minimum(which, 0), np.full(1, -1, np.int32), table)
    assert table.tolist() == [0, 1, 1, 1, 1, 0]


# ---- damage


def values_near(limit):
    """Values whose pieces begin or end within bounds, at them or far outside."""
    starts = st.sampled_from([-(2**39), -1, 0, 1, limit - 1, limit, limit + 1, 2**30, 2**39 - 1])
    lengths = st.sampled_from([0, 1, 2, limit, limit + 1, 2**24 - 1])
    return st.one_of(
        st.builds(lambda start, length: start << LENGTH_BITS | length, starts, lengths),
        st.integers(LEAST, MOST),
    )


@pytest.mark.parametrize("start", [-(2**39), -7, -6, -3, -1, 4, 5, 6, 2**39 - 1])
@pytest.mark.parametrize("length", [0, 1, 3, 6, 2**24 - 1])
def test_pieces_that_begin_or_end_outside(start, length):
    """Also where an index from the end would be within."""
    heap, nothing = np.frombuffer(b"aaaaaa", np.uint8).copy(), np.zeros(0, np.uint8)
    value = np.array([start << LENGTH_BITS | length], np.int64)
    inside = start >= 0 and start + length <= 6
    table = filled(1)
    metadata.strings_between(np.array([STRING], np.uint8), value, heap, nothing, -1, nothing, 1, table)
    assert table[0] == inside
    for pattern in ("%", "%a%", "a%", "%a", "_%"):
        metadata.strings_like(np.array([STRING], np.uint8), value, heap, parts(pattern), False, table)
        assert table[0] == (inside and (length > 0 or pattern == "%"))
    members, kinds = np.full(6, 1, np.int32), np.array([LIST, INT], np.uint8)
    values, two = np.append(value, 0), filled(2)
    metadata.any_member(kinds, values, members, np.array([0, 1], np.uint8), False, two)
    assert two.tolist() == [inside and length > 0, 1]
    metadata.every_member(kinds, values, members, np.array([-1, 0], np.int32), np.full(1, -1, np.int32), two)
    assert two.tolist() == [inside and length > 0, 1]


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    entries=st.lists(st.tuples(KINDS, values_near(20)), max_size=30),
    pattern=st.lists(st.one_of(st.integers(-2, 255), st.sampled_from([-3, 256, 32767, -32768])), max_size=6),
    least=st.integers(-1, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_texts_out_of_bounds_match_nothing(entries, pattern, least, seed):
    """The heap is of any bytes; it stands among others that would be seen."""
    rng = np.random.default_rng(seed)
    kinds = np.array([kind for kind, _ in entries], np.uint8)
    values = np.array([value for _, value in entries], np.int64)
    heap, _ = fenced(rng.integers(0, 256, 20).astype(np.uint8))
    outside = np.array([naive.piece(value, heap) is None for value in values.tolist()], bool)
    ends = [rng.integers(0, 256, rng.integers(0, 4)).astype(np.uint8) for _ in range(2)]
    table, untouched = fenced(filled(len(kinds)))
    metadata.strings_between(kinds, values, heap, ends[0], least, ends[1], -least, table)
    expected = naive.strings_between(kinds, values, heap, ends[0].tobytes(), least, ends[1].tobytes(), -least)
    assert table.tolist() == expected and untouched()
    for folded in (False, True):
        table, untouched = fenced(filled(len(kinds)))
        metadata.strings_like(kinds, values, heap, np.array(pattern, np.int16), folded, table)
        assert untouched() and set(table.tolist()) <= {0, 1, ASK if folded else 0}
        assert not table[outside | (kinds != STRING)].any()
        metadata.strings_like(kinds, values, heap, parts("%"), False, table)
        assert table.tolist() == ((kinds == STRING) & ~outside).astype(int).tolist()


@pytest.mark.parametrize("pattern", ["99%", "%99", "c", "%c%", "%c", "c%", "_", "__c", "c_"])
def test_a_text_ends_where_its_length_says(pattern):
    """Beside it in the heap stands what the pattern is still looking for."""
    heap = np.frombuffer(b"cccabccc", np.uint8).copy()
    kinds, values = np.array([STRING], np.uint8), np.array([3 << LENGTH_BITS | 2], np.int64)
    table = filled(1)
    metadata.strings_like(kinds, values, heap, parts(pattern), False, table)
    assert table[0] == matched("ab", pattern) == 0
    surrounded, untouched = fenced(np.frombuffer(b"\xe2\x88", np.uint8).copy())  # a character that is cut off
    metadata.strings_like(kinds, np.array([2], np.int64), surrounded, parts("_c%"), False, table)
    assert table[0] == 0 and untouched()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    entries=st.lists(st.tuples(st.sampled_from([0, INT, LIST]), values_near(12)), max_size=30),
    members=st.lists(st.sampled_from([-(2**31), -1, 0, 1, 2, 9, 29, 30, 31, 2**31 - 1]), min_size=12, max_size=12),
    operands=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_lists_out_of_bounds_have_no_members_and_members_that_are_none_do_not_count(entries, members, operands, seed):
    rng = np.random.default_rng(seed)
    kinds = np.array([kind for kind, _ in entries], np.uint8)
    values = np.array([value for _, value in entries], np.int64)
    held, _ = fenced(np.array(members, np.int32))
    own, _ = fenced(rng.integers(0, 2, len(kinds)).astype(np.uint8))
    for keep in (False, True):
        table, untouched = fenced(filled(len(kinds)))
        metadata.any_member(kinds, values, held, own, keep, table)
        assert table.tolist() == naive.any_member(kinds, values, held, own, keep) and untouched()
    damaged = rng.choice([-(2**31), -2, -1, 0, 1, 2, 3, 2**31 - 1], len(kinds)).astype(np.int32)
    which, _ = fenced(damaged)
    table, untouched = fenced(filled(len(kinds)))
    stamps, whole = fenced(np.full(operands, -1, np.int32))
    metadata.every_member(kinds, values, held, which, stamps, table)
    expected = naive.every_member(kinds, values, held, np.where(damaged < operands, damaged, -1), operands)
    assert table.tolist() == expected and untouched() and whole()


def test_members_that_are_no_entries_pass_nothing():
    kinds, values = np.array([LIST, INT], np.uint8), np.array([3, 0])
    members, own = np.array([-1, 2, 1], np.int32), np.array([0, 1], np.uint8)
    for member, passes in ((1, 1), (0, 0), (2**31 - 1, 0)):
        members[2], table = member, filled(2)
        metadata.any_member(kinds, values, members, own, False, table)
        assert table.tolist() == [passes, 1]


def test_warm_up_compiles_what_is_called_later():
    warm_up()
    if INTERPRETED:
        return
    assert [len(root.signatures) for root in metadata.ROOTS] == [3, *[1] * (len(metadata.ROOTS) - 1)]
