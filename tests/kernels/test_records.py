from __future__ import annotations

import numpy as np
import pytest

from bqstore.kernels import layout, records
from tests import naive
from tests.kernels.given import DIMS, FORMS, INTERPRETED, damage, whole_vectors


@pytest.mark.parametrize("stride", [8, 16, 24, 40, 104])
def test_the_checksum_is_that_of_the_naive_version(stride):
    words = np.random.default_rng(stride).integers(0, 2**32, (4, stride), dtype=np.uint32)
    words[3] = 0xFFFF_FFFF
    words.flags.writeable = False
    for row in range(4):
        assert int(records.record_sum(words, row, 3 - row)) == naive.sum64(words[row])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dim", DIMS)
def test_a_sealed_record_is_sound(dim, form):
    originals = naive.make_originals(whole_vectors(np.random.default_rng(dim), 2, dim), form, layout.DOT)
    assert records.is_sound(originals.records, 0, 0)
    assert records.is_sound(originals.records, 1, 1)
    assert originals.records.shape[1] % 8 == 0


def test_a_record_of_zeros_is_damaged():
    assert not records.is_sound(damage(no_records(), 0, 0, 0).records, 0, 0)
    assert not records.is_sound(no_records().records, 0, 0)


def no_records():
    words = np.zeros((1, 16), np.uint32)
    words.flags.writeable = False
    return layout.Originals(words, 8, layout.FLOAT32, layout.DOT)


def test_every_single_bit_counts():
    originals = naive.make_originals(np.ones((1, 5), np.float32), layout.FLOAT16, layout.DOT)
    for word in range(originals.records.shape[1]):
        for bit in range(32):
            assert not records.is_sound(damage(originals, 0, word, bit).records, 0, 0), (word, bit)


def test_every_finite_float16_is_read_exactly():
    patterns = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    patterns = patterns[np.isfinite(patterns.view(np.float16))]
    if INTERPRETED:
        patterns = np.concatenate([patterns[:40], patterns[1000:1040], patterns[-1050:-1000]])
    halves = np.concatenate([np.zeros(16, np.uint16), patterns])
    halves.flags.writeable = False
    out = np.empty(len(patterns), np.float32)
    expected = patterns.view(np.float16).astype(np.float32)
    for scale in (np.float32(1), np.float32(2.0**-60)):
        records.read_half(halves, scale, out)
        np.testing.assert_array_equal(out.view(np.uint32), (scale * expected).view(np.uint32))


@pytest.mark.parametrize("dim", [1, 2, 15, 16, 17, 31, 32, 33, 100])
def test_float16_values_of_every_number_are_read(dim):
    """Sixteen at a time and the rest one by one: none before or behind."""
    values = np.random.default_rng(dim).standard_normal(dim).astype(np.float16)
    halves = np.full(16 + 2 * dim + 64, np.float16(99)).view(np.uint16)
    halves[16 : 16 + dim] = values.view(np.uint16)
    halves.flags.writeable = False
    around = np.full(dim + 40, 77, np.float32)
    records.read_half(halves, np.float32(1), around[20 : 20 + dim])
    np.testing.assert_array_equal(around[20 : 20 + dim], values.astype(np.float32))
    assert (around[:20] == 77).all() and (around[20 + dim :] == 77).all()


def test_int8_values_are_scaled():
    small = np.concatenate([np.zeros(32, np.int8), np.arange(-128, 128).astype(np.int8)])
    small.flags.writeable = False
    out = np.empty(256, np.float32)
    records.read_int8(small, np.float32(0.3), out)
    np.testing.assert_array_equal(out, np.float32(0.3) * np.arange(-128, 128).astype(np.float32))


def test_a_wrong_dim_or_form_does_not_fit():
    originals = naive.make_originals(np.ones((1, 9), np.float32), layout.INT8, layout.DOT)
    assert records.fits(originals, 9)
    assert not records.fits(originals, 10)
    assert not records.fits(originals._replace(dim=33), 33)
    assert not records.fits(originals._replace(form=layout.FLOAT32), 9)
    assert not records.fits(originals._replace(form=3), 9)
    assert not records.fits(originals._replace(form=-1), 9)
