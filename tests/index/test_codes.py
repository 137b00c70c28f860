"""The memory of the codes: how it grows, and where it comes from."""

import errno
import mmap

import numpy as np
import pytest

from bqstore.index import append_codes, memory, new_codes
from tests.index.given import encode


@pytest.mark.parametrize("huge", [True, False])
def test_codes_grow_without_moving_what_is_published(huge, monkeypatch):
    if not huge:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30_000, 700)).astype(np.float32)
    words, n, published = new_codes(11), 0, []
    for piece in np.array_split(vectors, 17):
        words = append_codes(words, n, encode(piece))
        n += len(piece)
        published.append((words, n))
    expected = np.packbits(vectors > 0, axis=1, bitorder="little")
    for words, n in published:
        assert words.flags.c_contiguous and words.dtype == np.uint64
        assert (words[:n].view(np.uint8)[:, : expected.shape[1]] == expected[:n]).all()


def test_memory_without_huge_pages_is_the_same_memory(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, *_):
            raise OSError("not built in")

    monkeypatch.setattr(memory.mmap, "mmap", Refusing)
    words = memory.allocate(400_000, 1, np.uint64)
    assert words.shape == (400_000, 1) and not words.any()
    words[:] = 7
    assert words.sum() == 2_800_000


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (5, 7), (1_000_003, 3)])
def test_memory_is_zeroed_writable_and_of_the_type_that_kernels_take(shape, dtype):
    array = memory.allocate(*shape, dtype)
    assert array.shape == shape and array.dtype == dtype
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    assert not array.any()
    array[:] = 9
    assert (array == 9).all()


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="asks for no huge pages here")
def test_no_address_space_for_huge_pages_was_a_bare_error_of_an_add_that_had_committed(monkeypatch):
    """RLIMIT_AS: ordinary pages, or a MemoryError, which does not hide what is stored."""

    def full(*arguments, **keywords):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", full)
        assert memory.allocate(1 << 12, 1 << 10, np.uint8).sum() == 0
        with pytest.raises(MemoryError):
            memory.allocate(1 << 40, 1 << 20, np.uint8)
