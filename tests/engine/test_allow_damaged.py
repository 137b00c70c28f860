"""One damaged document does not close a collection to its readers: it is left out and named, if that is asked for."""

import numpy as np
import pytest

import bqstore
from bqstore import CorruptionError, InvalidInputError
from bqstore.engine import fetch
from tests.conftest import clustered

N, DIM = 60, 16
VECTORS = clustered(N, DIM)
QUERY = VECTORS[0]
ORDER = [f"d{i}" for i in np.argsort(-(VECTORS @ QUERY) / np.linalg.norm(VECTORS, axis=1))]


@pytest.fixture(params=[True, False], ids=["exact", "bits"])
def path(tmp_path, request):
    threshold = 10_000 if request.param else 0
    with bqstore.open_flat(tmp_path, full_scan_threshold=threshold, encoding="one_bit") as col:
        metadatas = [{"half": i % 2, "n": i} for i in range(N)]
        col.add(VECTORS, [f"d{i}" for i in range(N)], [f"the text of d{i}." for i in range(N)], metadatas)
    return tmp_path


def spoil_vector(path, id_: str) -> None:
    file = path / "default/vectors-0.bin"
    data = bytearray(file.read_bytes())
    size = (len(data) - 64) // N
    data[64 + int(id_[1:]) * size + 40] ^= 1
    file.write_bytes(data)


def spoil_row(path, what: bytes) -> None:
    """One byte of a row; its bytes stand in the file once."""
    file = path / "default/meta.db"
    data = file.read_bytes()
    assert data.count(what) == 1
    file.write_bytes(data.replace(what, what[:-1] + b"~"))


def searched(path, k=5, **settings):
    with bqstore.open(path, read_only=True) as col:
        return col.search(QUERY, k, oversampling=100, allow_damaged=True, **settings)


def without(*gone: str, of=ORDER) -> list[str]:
    return [id_ for id_ in of if id_ not in gone]


def test_nothing_is_left_out_of_a_whole_collection(path):
    hits = searched(path)
    with bqstore.open(path) as col:
        assert hits == col.search(QUERY, 5, oversampling=100)
    assert [hit.id for hit in hits] == ORDER[:5] and hits.left_out == ()


def test_a_damaged_vector_is_an_error_that_names_repair_unless_it_is_allowed(path):
    gone = [ORDER[0], ORDER[3]]
    for id_ in gone:
        spoil_vector(path, id_)
    with bqstore.open(path, read_only=True) as col, pytest.raises(CorruptionError, match="bqstore repair"):
        col.search(QUERY, 5, oversampling=100)
    hits = searched(path, with_vectors=True)
    assert [hit.id for hit in hits] == without(*gone)[:5] and set(hits.left_out) == set(gone)
    assert all(np.array_equal(hit.vector, VECTORS[int(hit.id[1:])]) for hit in hits)


def test_a_damaged_text_is_left_out(path):
    spoil_row(path, f"the text of {ORDER[1]}.".encode())
    with bqstore.open(path, read_only=True) as col, pytest.raises(CorruptionError, match="row"):
        col.search(QUERY, 5)
    hits = searched(path)
    assert [hit.id for hit in hits] == without(ORDER[1])[:5] and hits.left_out == (ORDER[1],)


def test_damaged_metadata_is_left_out_of_a_filtered_search_as_it_may_match_or_not(path):
    gone = ORDER[2]
    spoil_row(path, f'{{"half":{int(gone[1:]) % 2},"n":{gone[1:]}}}'.encode()[:-1])
    even = [id_ for id_ in ORDER if int(id_[1:]) % 2 == 0]
    with bqstore.open(path, read_only=True) as col, pytest.raises(CorruptionError):
        col.search(QUERY, 5, filter={"half": 0})
    for accepted in ({"half": 0}, lambda record: record.metadata["half"] == 0):
        hits = searched(path, 50, filter=accepted)
        assert [hit.id for hit in hits] == without(gone, of=even) and hits.left_out == (None,)
    assert [hit.id for hit in searched(path, 50)] == without(gone)[:50]


def test_a_lost_page_of_the_catalogue_leaves_the_rest_to_be_found(path):
    file = path / "default/meta.db"
    data = bytearray(file.read_bytes())
    page = data.index(b"the text of d9.") // 4096
    lost = [f"d{i}" for i in range(N) if f"the text of d{i}.".encode() in data[page * 4096 : page * 4096 + 4096]]
    data[page * 4096 : page * 4096 + 4096] = bytes(4096)
    file.write_bytes(data)
    hits = searched(path, N)
    assert [hit.id for hit in hits] == without(*lost) and len(hits.left_out) == len(lost)
    hits = searched(path, N, filter={"n": {"$gte": 0}})
    assert [hit.id for hit in hits] == without(*lost) and len(hits.left_out) == len(lost)


def test_batches_and_explained_searches_say_it_too(path):
    spoil_vector(path, ORDER[0])
    with bqstore.open(path, read_only=True) as col:
        batch = col.search_batch(VECTORS[:3], 4, oversampling=100, allow_damaged=True)
        assert all(hits.left_out == (ORDER[0],) and len(hits) == 4 for hits in batch)
        hits = col.search(QUERY, 4, explain=True, oversampling=100, allow_damaged=True)
        assert hits.left_out == (ORDER[0],) and hits.explanation.accepted == N - 1
        assert col.search(QUERY, 4, filter={"n": -1}, allow_damaged=True) == []
        with pytest.raises(InvalidInputError, match="allow_damaged is 'yes'"):
            col.search(QUERY, allow_damaged="yes")


def test_where_every_vector_is_damaged_nothing_is_found_and_all_are_named(path):
    for i in range(N):
        spoil_vector(path, f"d{i}")
    hits = searched(path, N)
    assert hits == [] and set(hits.left_out) == set(ORDER)


def test_walks_are_tried_with_what_is_sound(path):
    """The linking of what comes next does not end at damage that no search has met yet."""
    spoil_vector(path, "d3")
    with bqstore.open(path, read_only=True) as col:
        read = fetch.sound_ones(col._engine.publisher.state.vectors)
        assert read is not None
        np.testing.assert_array_equal(read(np.array([1, 3, 40])), VECTORS[[1, 40]])
        assert read(np.array([3])).shape == (0, DIM)
    assert fetch.sound_ones(None) is None
