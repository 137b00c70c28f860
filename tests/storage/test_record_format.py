"""Records and headers: what is written is read, and no flipped bit goes unnoticed."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqstore.errors import CorruptionError, FormatVersionError
from bqstore.storage import format as fmt
from bqstore.storage.format import Layout

from .depth import examples, for_all

finite = st.floats(-1e6, 1e6, width=32, allow_subnormal=True)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 70))
FORMS = st.sampled_from(sorted(fmt.CODE_FORMS.values()))
columns = st.lists(st.none() | st.text(max_size=3), min_size=5, max_size=5)


def rids(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int64) * 3 + 2**40


@examples
def test_float32_comes_back_bit_for_bit(n):
    @for_all(n, hnp.arrays(np.float32, shapes, elements=finite))
    def comes_back(vectors):
        layout = Layout("vectors", vectors.shape[1], fmt.FORMS["float32"])
        records = fmt.vector_records(layout, rids(len(vectors)), vectors)
        assert fmt.vectors_of(layout, records).tobytes() == vectors.tobytes()
        assert records.shape[1] * 4 == layout.record_bytes and layout.record_bytes % 32 == 0
        assert (fmt.rids_of(records) == rids(len(vectors))).all() and not fmt.damaged(records).any()


@examples
def test_float16_comes_back_as_the_nearest_half(n):
    @for_all(n, hnp.arrays(np.float32, shapes, elements=st.floats(-60000, 60000, width=16)))
    def comes_back(vectors):
        layout = Layout("vectors", vectors.shape[1], fmt.FORMS["float16"])
        records = fmt.vector_records(layout, rids(len(vectors)), vectors)
        assert (fmt.vectors_of(layout, records) == vectors.astype(np.float16).astype(np.float32)).all()
        assert not fmt.damaged(records).any()


@examples
def test_int8_comes_back_within_half_a_step(n):
    @for_all(n, hnp.arrays(np.float32, shapes, elements=finite))
    def comes_back(vectors):
        layout = Layout("vectors", vectors.shape[1], fmt.FORMS["int8"])
        records = fmt.vector_records(layout, rids(len(vectors)), vectors)
        back = fmt.vectors_of(layout, records)
        step = np.maximum(np.abs(vectors).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        assert np.isfinite(back).all() and (np.abs(back - vectors) <= 0.5001 * step).all()
        lengths = records.view(np.float32)[:, 4]
        np.testing.assert_allclose(lengths, np.linalg.norm(back.astype(float), axis=1), rtol=1e-6)


@examples
def test_codes_come_back(n):
    @for_all(n, st.integers(1, 300), st.integers(1, 5), st.integers(0, 2**32), FORMS)
    def come_back(dim, n, seed, form):
        layout = Layout("codes", dim, form)
        codes = np.random.default_rng(seed).integers(0, 2**64, (n, layout.payload_bytes // 8), np.uint64)
        records = fmt.code_records(layout, rids(n), codes)
        assert (fmt.codes_of(layout, records) == codes).all()
        assert (fmt.rids_of(records) == rids(n)).all() and not fmt.damaged(records).any()


@pytest.mark.parametrize("form", ["float32", "float16", "int8", "codes", "rabitq"])
def test_every_flipped_bit_is_detected(form):
    vectors = np.random.default_rng(0).standard_normal((1, 21)).astype(np.float32)
    if form == "codes":
        records = fmt.code_records(Layout("codes", 70, 1), rids(1), np.array([[5, 2**63]], np.uint64))
    elif form == "rabitq":
        records = fmt.code_records(Layout("codes", 70, 5), rids(1), np.array([[5, 2**63, 3, 9, 2**62]], np.uint64))
    else:
        records = fmt.vector_records(Layout("vectors", 21, fmt.FORMS[form]), rids(1), vectors)
    bits = records.size * 32
    flipped = np.repeat(records, bits, axis=0)
    flipped[np.arange(bits), np.arange(bits) // 32] ^= np.uint32(1) << (np.arange(bits) % 32).astype(np.uint32)
    assert fmt.damaged(flipped).all()


@examples
def test_any_change_of_a_word_is_detected(n):
    @for_all(n, st.data())
    def is_found(data):
        vectors = np.random.default_rng(0).standard_normal((1, 40)).astype(np.float32)
        records = fmt.vector_records(Layout("vectors", 40, 0), rids(1), vectors)
        place = data.draw(st.integers(0, records.shape[1] - 1))
        word = data.draw(st.integers(0, 2**32 - 1).filter(lambda w: w != records[0, place]))
        records[0, place] = word
        assert fmt.damaged(records).all()


def test_zeros_swaps_and_shifts_are_damage():
    records = fmt.vector_records(Layout("vectors", 8, 0), rids(2), np.arange(16, dtype=np.float32).reshape(2, 8))
    assert fmt.damaged(np.zeros_like(records)).all()  # a hole in the file
    assert fmt.damaged(np.full_like(records, 0xFFFFFFFF)).all()
    swapped = records.copy()
    swapped[:, [9, 10]] = swapped[:, [10, 9]]
    assert fmt.damaged(swapped).all()
    assert fmt.damaged(np.roll(records.reshape(-1), 1).reshape(2, -1)).all()


def test_sum64_of_known_words():
    words = np.array([[0, 0], [1, 0], [0, 1], [0xFFFFFFFF, 0xFFFFFFFF]], np.uint32)
    seed, first, second = 0x627173746F726531, 0x9E3779B1, 0x3C6EF363
    expected = [seed, seed + first, seed + second, (seed + 0xFFFFFFFF * (first + second)) % 2**64]
    assert fmt.sum64(words, 0).tolist() == expected
    assert fmt.sum64(words[:, 1:], 1).tolist() == [seed, seed, seed + second, seed + 0xFFFFFFFF * second]
    wide = np.random.default_rng(0).integers(0, 2**32, (300, 5), np.uint32)  # more rows than are summed at a time
    assert (fmt.sum64(wide, 0) == [fmt.sum64(row[None], 0)[0] for row in wide]).all()


def test_the_kernels_know_the_same_records():
    from bqstore.kernels import layout

    assert layout.CHECKSUM_SEED == fmt.CHECKSUM_SEED == 0x6271_7374_6F72_6531
    assert layout.RECORD_HEADER_WORDS == fmt.VECTOR_HEADER_WORDS == 8
    for dim in (1, 8, 9, 1536):
        for form in fmt.FORMS.values():
            assert 4 * layout.words_per_record(dim, form) == Layout("vectors", dim, form).record_bytes


def test_every_byte_of_a_header_counts():
    layout = Layout("vectors", 12, 0)
    header = fmt.header_bytes(layout, 3, 2**61)
    assert len(header) == fmt.HEADER_BYTES
    fmt.check_header("file", header, layout, 3, 2**61)
    for place in range(64):
        for bit in range(8):
            data = bytearray(header)
            data[place] ^= 1 << bit
            with pytest.raises((CorruptionError, FormatVersionError)):
                fmt.check_header("file", bytes(data), layout, 3, 2**61)
    for other in (Layout("vectors", 13, 0), Layout("vectors", 12, 1), Layout("codes", 12, 1)):
        with pytest.raises(CorruptionError):
            fmt.check_header("file", header, other, 3, 2**61)
    for generation, store_id in ((4, 2**61), (3, 1)):
        with pytest.raises(CorruptionError):
            fmt.check_header("file", header, layout, generation, store_id)
    with pytest.raises(CorruptionError, match="63 bytes"):
        fmt.check_header("file", header[:63], layout, 3, 2**61)


@examples
def test_rows_that_differ_are_written_differently(n):
    @for_all(n, columns, columns)
    def are_written_differently(one, other):
        """Lengths come first: ("ab", "c") and ("a", "bc") must not share a CRC."""
        import zlib

        seen = []

        def recorded(data: bytes) -> int:
            seen.append(data)
            return 0

        one, other = ([p or "" if i in (0, 2) else p for i, p in enumerate(parts)] for parts in (one, other))
        real, zlib.crc32 = zlib.crc32, recorded
        try:
            fmt.row_crc(1, 2, *one)
            fmt.row_crc(1, 2, *other)
            fmt.key_crc(1, 2, one[0], one[4], one[2])
            fmt.key_crc(1, 2, other[0], other[4], other[2])
        finally:
            zlib.crc32 = real
        assert (seen[0] == seen[1]) == (one == other)
        assert (seen[2] == seen[3]) == ([one[i] for i in (0, 4, 2)] == [other[i] for i in (0, 4, 2)])
