"""Each intrinsic, or its interpreted version, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import intrinsics
from bqstore.kernels.jit import leaf
from tests import naive
from tests.kernels.given import INTERPRETED, examples

WIDTHS = (*range(1, 26), 31, 32, 33, 48, *(() if INTERPRETED else (63, 64, 256)))
EXAMPLES = examples(200)


@leaf
def distances(words, row, planes, shifts, width):
    return (
        intrinsics.distance_1(words, row, planes, None, width),
        intrinsics.distance_4(words, row, planes, None, width),
        intrinsics.distance_1(words, row, planes, shifts, width),
        intrinsics.distance_2(words, row, planes, shifts, width),
        intrinsics.distance_4(words, row, planes, shifts, width),
        intrinsics.distance_8(words, row, planes, shifts, width),
    )


@leaf
def plane(levels, start, mask):
    return intrinsics.byte_plane(levels, start, mask)


@leaf
def below(keys, start, stop, key):
    return intrinsics.count_below(keys, start, stop, key)


@leaf
def shift(keys, place, count):
    intrinsics.move_up(keys, place, count)


@leaf
def total(records, row, factor, ahead):
    return intrinsics.keyed_sum(records, row, factor, ahead)


def weighted(code, planes, shifts, width, count):
    apart = [[naive.hamming(code[w : w + 1], planes[p, w : w + 1]) for w in range(width)] for p in range(count)]
    return sum(apart[p][w] << (p + int(shifts[w])) for p in range(count) for w in range(width))


def expected_distances(code, planes, shifts, width):
    plain = np.zeros_like(shifts)
    whole = tuple(weighted(code, planes, plain, width, count) for count in (1, 4))
    return whole + tuple(weighted(code, planes, shifts, width, count) for count in (1, 2, 4, 8))


@pytest.mark.parametrize("width", WIDTHS)
def test_distances_of_every_width(width):
    rng = np.random.default_rng(width)
    words = rng.integers(0, 2**64, (5, width), dtype=np.uint64)
    planes = rng.integers(0, 2**64, (8, width), dtype=np.uint64)
    shifts = rng.integers(0, 4, width).astype(np.uint64)
    for row in range(5):
        assert distances(words, row, planes, shifts, width) == expected_distances(words[row], planes, shifts, width)


def test_distances_of_the_first_words_only():
    """Those of a code without its corrections, against planes that may be longer."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, (3, 30), dtype=np.uint64)
    planes = rng.integers(0, 2**64, (8, 31), dtype=np.uint64)
    shifts = rng.integers(0, 4, 30).astype(np.uint64)
    for width in (0, 1, 15, 16, 17, 29, 30):
        assert distances(words, 1, planes, shifts, width) == expected_distances(words[1], planes, shifts, width)


def test_the_largest_distance_there_is():
    words, shifts = np.zeros((1, 1024), np.uint64), np.repeat(np.arange(3, -1, -1, dtype=np.uint64), 256)
    planes = np.full((8, 1024), 2**64 - 1, np.uint64)
    expected = tuple(steps * 15 * 16_384 for steps in (1, 3, 15, 255))
    assert distances(words, 0, planes, shifts, 1024)[2:] == expected
    assert distances(words, 0, planes, shifts, 256)[:2] == (16_384, 15 * 16_384)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 70), st.integers(1, 255))
def test_a_plane_of_bytes(seed, start, mask):
    levels = np.random.default_rng(seed).integers(0, 256, start + 64).astype(np.uint8)
    expected = sum(1 << j for j in range(64) if levels[start + j] & mask)
    assert int(plane(levels, start, mask)) == expected


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62), max_size=60), st.integers(-(2**62), 2**62), st.data())
def test_keys_below_are_counted(values, key, data):
    start = data.draw(st.integers(0, len(values)))
    keys = np.full(len(values) + 8, 2**63 - 1)
    keys[: len(values)] = sorted(values)
    assert below(keys, start, len(values), key) == sum(value < key for value in sorted(values)[start:])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 300), st.data())
def test_keys_move_up_by_one_place(size, data):
    place = data.draw(st.integers(0, size - 1))
    count = data.draw(st.integers(0, size - 1 - place))
    keys = np.arange(size)
    shift(keys, place, count)
    expected = [*range(place + 1), *range(place, place + count), *range(place + 1 + count, size)]
    assert keys.tolist() == expected


@pytest.mark.parametrize("eighths", [1, 2, 3, 4, 5, 9, 13, 49, 193])
def test_the_keyed_sum_of_odd_and_even_numbers_of_eight_words(eighths):
    rng = np.random.default_rng(eighths)
    words = rng.integers(0, 2**32, (4, 8 * eighths), dtype=np.uint32)
    words[3] = 0xFFFF_FFFF
    words[:, :2] = 0  # where the sum itself is kept
    words.flags.writeable = False
    for row in range(4):
        found = int(total(words, row, 0x9E37_79B1, 3 - row))
        assert (found + 0x6271_7374_6F72_6531) % 2**64 == naive.sum64(words[row])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_keyed_sum_with_any_factor(eighths, factor, seed):
    words = np.random.default_rng(seed).integers(0, 2**32, (1, 8 * eighths), dtype=np.uint32)
    words.flags.writeable = False
    expected = sum(((factor * (j + 1)) % 2**32 | 1) * int(word) for j, word in enumerate(words[0]))
    assert int(total(words, 0, factor, 0)) == expected % 2**64
