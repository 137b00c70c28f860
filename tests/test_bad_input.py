"""Whatever is wrong gets its own error before anything is written."""

import datetime

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError, UnknownKeywordError

GOOD = np.eye(3, 4, dtype=np.float32) + 0.1


@pytest.fixture
def col(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(GOOD, ["a", "b", "c"])
        yield col


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vectors": np.ones((2, 5))}, "vector 0 has 5 dimensions; this collection holds 4"),
        ({"vectors": [[1.0, 2, 3, 4], [1.0]]}, "vector 1 has 1 dimension, vector 0 has 4"),
        ({"vectors": [1.0, 2, 3, 4]}, r"shape \(4,\); expected \(n, dim\)"),
        ({"vectors": np.ones((1, 1, 4))}, "expected"),
        ({"vectors": ["a", "text"]}, "vectors holds text; embed it first; the texts go into texts="),
        ({"vectors": [["a", "b", "c", "d"]]}, "vectors holds text; embed it first"),
        ({"vectors": [["a", 1.0, None, 2]]}, "vectors holds text"),
        ({"vectors": ["a", [1.0]]}, "vectors cannot be read as an array of numbers"),
        ({"vectors": [[None, 1, 2, 3]]}, "vectors holds None; expected numbers"),
        ({"vectors": [[object(), 1, 2, 3]]}, "vectors holds an object; expected numbers"),
        ({"vectors": np.array([[1.0, 2], [1.0]], object)}, "vector 1 has 1 dimension, vector 0 has 2"),
        ({"vectors": [[10**400] * 4]}, "values of type object; expected numbers"),
        ({"vectors": [[True] * 4]}, "holds booleans; expected numbers"),
        ({"vectors": [[1j, 1, 2, 3]]}, "complex"),
        ({"vectors": "text"}, "vectors is text; embed it first"),
        ({"vectors": [[1.0, np.nan, 2, 3]]}, "vector 0 holds NaN or infinity"),
        ({"vectors": [[1, 2, 3, 4], [np.inf, 0, 0, 1]]}, "vector 1 holds NaN or infinity"),
        ({"vectors": [[1e39, 2, 3, 4]]}, "NaN or infinity"),
        ({"vectors": [[1e30, 2, 3, 4]]}, "expected at most"),
        ({"vectors": [[1e-30, 0, 0, 0]]}, "cosine needs at least"),
        ({"vectors": GOOD, "ids": ["a"]}, "ids has 1 entry for 3 vectors"),
        ({"vectors": GOOD, "texts": ["a"] * 4}, "texts has 4 entries for 3 vectors"),
        ({"vectors": GOOD, "metadatas": [{}]}, "metadatas has 1 entry for 3 vectors"),
        ({"vectors": [], "texts": ["a"]}, "texts has 1 entry for 0 vectors"),
        ({"vectors": GOOD, "ids": "abc"}, "ids is a str; expected a list"),
        ({"vectors": GOOD, "ids": ["x", "y", ""]}, "id 2 has 0 bytes"),
        ({"vectors": GOOD, "ids": ["x", "y", "é" * 513]}, "id 2 has 1,026 bytes"),
        ({"vectors": GOOD, "ids": ["x", "y", 3]}, "id 2 is an int"),
        ({"vectors": GOOD, "ids": ["x", "\ud800", "y"]}, "id 1 holds a lone surrogate"),
        ({"vectors": GOOD, "texts": ["x", "y\udfff", "z"]}, "text 1 holds a lone surrogate at position 1"),
        ({"vectors": GOOD, "texts": ["x", 5, "z"]}, "text 1 is an int"),
        ({"vectors": GOOD, "metadatas": [{}, {"a": "\ud800"}, {}]}, "metadata 1 holds a lone surrogate"),
        ({"vectors": GOOD, "metadatas": [{}, {}, "x"]}, "metadata 2 is a str"),
        ({"vectors": GOOD, "metadatas": [{}, {}, {1: "x"}]}, "metadata 2 has a key of type int"),
        ({"vectors": GOOD, "metadatas": [{}, {}, {"a": [{2: 1}]}]}, "metadata 2 has a key of type int"),
        ({"vectors": GOOD, "metadatas": [{}, {"a": object()}, {}]}, "metadata 1 cannot be written as JSON"),
        ({"vectors": GOOD, "metadatas": [{"a": 1j}, {}, {}]}, "metadata 0 cannot be written as JSON"),
        ({"vectors": GOOD, "metadatas": [{"a": float("nan")}, {}, {}]}, "metadata 0 cannot be written as JSON"),
        ({"vectors": GOOD, "metadatas": [{"a": "x" * (16 << 20)}, {}, {}]}, "metadata 0 takes 16,777,224 bytes"),
        ({"vectors": GOOD, "metadatas": [{"_bq_id": "x"}, {}, {}]}, "rename"),
    ],
)
def test_add_refuses_before_writing(col, tmp_path, arguments, words):
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".db-shm"}
    with pytest.raises(InvalidInputError, match=words):
        col.add(**arguments)
    assert len(col) == 3
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".db-shm"}
    assert before == after


def circular():
    loop: dict = {}
    loop["self"] = loop
    return loop


def deep():
    value: list = []
    for _ in range(100_000):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize("metadata", [circular(), deep()], ids=["circular", "deep"])
def test_metadata_without_an_end_is_refused(col, metadata):
    with pytest.raises(InvalidInputError):
        col.add(GOOD[:1], metadatas=[metadata])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "k is 0; expected an integer from 1 to 10,000"),
        ({"k": 10_001}, "k is 10001"),
        ({"k": 2.5}, "k is 2.5"),
        ({"k": True}, "k is True"),
        ({"oversampling": 0.99}, "oversampling is 0.99; expected a number of at least 1"),
        ({"oversampling": float("nan")}, "oversampling is nan"),
        ({"oversampling": "3"}, "oversampling is '3'"),
        ({"hnsw_ef": 0}, "hnsw_ef is 0"),
        ({"rescore": "no"}, "rescore is 'no'; expected True or False"),
        ({"exact": 1}, "exact is 1"),
        ({"score_threshold": "high"}, "score_threshold is 'high'"),
        ({"filter": "x"}, "filter is a str"),
        ({"filter": {"a": {"$eqq": 1}}}, r"did you mean '\$eq'"),
        ({"filter": {"a": {"b": 1}}}, r"write 'a\.b'"),
        ({"filter": {"a": {"$in": 3}}}, "expected a list"),
        ({"filter": {"a": {}}}, "empty dict"),
        ({"filter": {"$eq": 1}}, "where a field name belongs"),
        ({"filter": {3: 1}}, "key of type int"),
        ({"filter": {"a": object()}}, "compares with an object"),
        ({"filter": {"a": float("nan")}}, "no stored value equals"),
        ({"filter": {"a": "\ud800"}}, "lone surrogate"),
    ],
)
def test_search_refuses(col, arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        col.search([1.0, 0, 0, 0], **arguments)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ([1.0, 2], "the query vector has 2 dimensions; this collection holds 4"),
        ([np.nan] * 4, "NaN"),
        ([], "expected"),
        ([[1.0, 2, 3, 4]], "search_batch takes many"),
        ("text", "the query vector is text; embed it first$"),
        (None, "the query vector is None; expected numbers"),
    ],
)
def test_search_refuses_a_bad_query(col, query, words):
    with pytest.raises(InvalidInputError, match=words):
        col.search(query)


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda c: c.search([1.0, 0, 0, 0], oversample=3), "oversampling"),
        (lambda c: c.search([1.0, 0, 0, 0], top_k=3), "'k'"),
        (lambda c: c.search_ids([1.0, 0, 0, 0], filters={}), "filter"),
        (lambda c: c.add(GOOD, text=[]), "texts"),
        (lambda c: c.delete(id=["a"]), "ids"),
        (lambda c: bqstore.open(dims=3), "dim"),
        (lambda c: bqstore.open(originls="none"), "originals"),
        (lambda c: bqstore.open(search={"oversample": 2}), "oversampling"),
        (lambda c: bqstore.open(hnsw={"ef_constuct": 2}), "ef_construct"),
        (lambda c: bqstore.open_flat(oversample=2), "oversampling"),
        (lambda c: bqstore.SearchParams(rescoring=True), "rescore"),
        (lambda c: bqstore.HnswConfig(M=3), "'m'|known"),
        (lambda c: bqstore.search_keywords({"quantization": {"oversample": 2}}), "oversampling"),
        (lambda c: bqstore.search_keywords(None, oversamplng=None), "oversampling"),
    ],
)
def test_an_unknown_keyword_names_the_nearest(col, call, nearest):
    with pytest.raises(UnknownKeywordError, match=nearest) as caught:
        call(col)
    assert isinstance(caught.value, (TypeError, ValueError))


OPENED = "when the store is opened"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.search([1.0], n_results=3), "did you mean 'k'"),
        (lambda c: c.search([1.0], limit=3), "did you mean 'k'"),
        (lambda c: c.search([1.0], topK=3), "did you mean 'k'"),
        (lambda c: c.search([1.0], where={}), "did you mean 'filter'"),
        (lambda c: c.search([1.0], efSearch=9), "did you mean 'hnsw_ef'"),
        (lambda c: c.search([1.0], include_vectors=True), "did you mean 'with_vectors'"),
        (lambda c: c.search(query=[1.0]), "did you mean 'vector'"),
        (lambda c: c.search_batch(query_embeddings=[[1.0]]), "did you mean 'vectors'"),
        (lambda c: c.search([1.0], m=32), "no keyword 'm': m is set " + OPENED + ", and fixed when its collection"),
        (lambda c: c.search([1.0], ef_construction=9), "ef_construct is set " + OPENED + ", and fixed"),
        (lambda c: c.search([1.0], metric="dot"), "distance is set " + OPENED),
        (
            lambda c: c.search([1.0], encoding="one_bit"),
            "encoding is set " + OPENED + r", and changed by requantize\(\)",
        ),
        (
            lambda c: c.search([1.0], nonsense=1),
            "no keyword 'nonsense'; known: allow_damaged, alpha, exact, explain",
        ),
        (lambda c: c.add(embeddings=GOOD), "did you mean 'vectors'"),
        (lambda c: c.add(GOOD, documents=[]), "did you mean 'texts'"),
        (lambda c: c.add(GOOD, metadata=[]), "did you mean 'metadatas'"),
        (lambda c: c.update_metadata(["a"], metadatas={}), "did you mean 'metadata'"),
        (lambda c: c.delete(where={}), "did you mean 'filter'"),
        (lambda c: c.tune(recall=0.9), "did you mean 'target_recall'"),
        (lambda c: bqstore.open(metric="dot"), "did you mean 'distance'"),
        (lambda c: bqstore.open(collection_name="x"), "did you mean 'collection'"),
        (lambda c: bqstore.open(persist_directory="x"), "did you mean 'path'"),
        (lambda c: bqstore.open(uri="x"), "did you mean 'path'"),
        (lambda c: bqstore.open(location="x"), "did you mean 'path'"),
        (lambda c: bqstore.open(M=32), "no keyword 'M'; did you mean 'm'"),
        (lambda c: bqstore.open(oversample=2), "did you mean 'oversampling'"),
        (lambda c: bqstore.HnswConfig(M=3), "did you mean 'm'"),
        (lambda c: bqstore.HnswConfig(ef_construction=3), "did you mean 'ef_construct'"),
        (lambda c: bqstore.search_keywords(None, distance="dot"), "distance is set " + OPENED),
        (
            lambda c: bqstore.search_keywords({"quantization": {3: 1}}),
            "no keyword 3; known: ignore, oversampling, rescore",
        ),
    ],
)
def test_a_keyword_of_another_store_names_ours(col, call, words):
    with pytest.raises(UnknownKeywordError, match=words):
        call(col)


@pytest.mark.parametrize(
    ("operator", "ours"),
    [
        ("$regex", "$like"),
        ("$neq", "$ne"),
        ("$not_in", "$nin"),
        ("$contains_any", "$any"),
        ("$isnull", "$exists"),
        ("$iContains", "$ilike"),
        ("$iregex", "$ilike"),
    ],
)
def test_an_operator_of_another_store_names_ours(col, operator, ours):
    with pytest.raises(InvalidInputError, match=f"no operator '\\{operator}'; did you mean '\\{ours}'"):
        col.count({"a": {operator: "x"}})


@pytest.mark.parametrize("given", ["s", 3, None])
def test_a_collection_is_not_made_directly(given):
    with pytest.raises(InvalidInputError, match=r"use bqstore\.open"):
        bqstore.Collection(given)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": 0}, "dim is 0; expected an integer from 1 to 16,384"),
        ({"dim": 16_385}, "dim is 16385"),
        ({"distance": "cosin"}, "did you mean 'cosine'"),
        ({"distance": 3}, "distance is 3; expected one of 'cosine', 'dot', 'euclid'$"),
        ({"distance": "l2"}, "is 'l2'; expected one of 'cosine', 'dot', 'euclid'; did you mean 'euclid'.$"),
        ({"distance": "IP"}, "did you mean 'dot'"),
        ({"distance": "manhattan"}, "expected one of 'cosine', 'dot', 'euclid'$"),
        ({"originals": "float64"}, "originals is 'float64'"),
        ({"quantization": {"encoding": "three_bits"}}, "encoding is 'three_bits'"),
        ({"quantization": "one_bit"}, "quantization is a str; expected Quantization"),
        ({"hnsw": {"m": 1}}, "m is 1"),
        ({"hnsw": {"full_scan_threshold": -1}}, "full_scan_threshold is -1"),
        ({"search": {"oversampling": 0}}, "oversampling is 0"),
        ({"embedding_model": ""}, "embedding_model is ''"),
        ({"threads": 0}, "threads is 0"),
        ({"read_only": True}, "read_only=True needs a path"),
        ({"mode": 0o1070, "path": "x"}, "mode is 0o1070; expected one in which the owner may do everything"),
        ({"mode": 0o70, "path": "x"}, "mode is 0o70; expected one in which the owner"),
        ({"m": 8, "hnsw": bqstore.HnswConfig()}, "m and hnsw=.* are both given; set m in one of them"),
        ({"path": 3}, "path is 3; expected a folder"),
        ({"path": ""}, "expected a folder"),
        ({"path": "s3://bucket/name"}, "no remote stores"),
        ({"collection": "../up", "path": "x"}, "collection is '../up'"),
        ({"collection": "", "path": "x"}, "collection is ''"),
    ],
)
def test_open_refuses(settings, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=words):
        bqstore.open(**settings)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_a_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="is a file"):
        bqstore.open(tmp_path / "file")


@pytest.mark.parametrize(
    ("stored", "given", "words"),
    [
        ({"dim": 4}, {"dim": 5}, "dim=5 contradicts .* dim=4"),
        ({"distance": "dot"}, {"distance": "cosine"}, "distance='cosine' contradicts .* distance='dot'"),
        ({"originals": "int8"}, {"originals": "float32"}, "originals='float32' contradicts .* originals='int8'"),
        ({"embedding_model": "a"}, {"embedding_model": "b"}, "embedding_model='b' contradicts .*'a'"),
        ({"hnsw": {"m": 32}}, {"hnsw": {"m": 16}}, "m=16 contradicts .* m=32"),
        ({"hnsw": {"m": 32}}, {"hnsw": bqstore.HnswConfig()}, "m=16 contradicts"),
    ],
)
def test_settings_that_contradict_the_stored_ones(tmp_path, stored, given, words):
    bqstore.open(tmp_path, **stored).close()
    with pytest.raises(bqstore.SettingsConflictError, match=words):
        bqstore.open(tmp_path, **given)
    bqstore.open(tmp_path, **stored).close()  # the refused opening left no lock
    bqstore.open(tmp_path).close()


def test_the_dimension_settled_by_the_first_vectors_is_kept(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(GOOD)
    with pytest.raises(bqstore.SettingsConflictError, match=r"dim=8 contradicts .* dim=4"):
        bqstore.open(tmp_path, dim=8)
    with bqstore.open(tmp_path) as col:
        assert col.info().dim == 4


def test_query_settings_may_differ_at_every_open(tmp_path):
    bqstore.open(tmp_path, search={"oversampling": 5.0}, hnsw={"m": 32}).close()
    with bqstore.open(tmp_path) as col:
        assert col.info().search.oversampling == 5.0 and col.info().hnsw.m == 32
    with bqstore.open(tmp_path, search={"rescore": False}, hnsw={"full_scan_threshold": 0}) as col:
        assert col.info().search == bqstore.SearchParams(5.0, False)
        assert col.info().hnsw == bqstore.HnswConfig(32, 128, 0)
    with bqstore.open(tmp_path) as col:
        assert col.info().search == bqstore.SearchParams(5.0, True)


def test_delete_needs_to_be_told_what(col):
    for arguments in ({}, {"filter": {}}, {"ids": None, "filter": None}):
        with pytest.raises(InvalidInputError, match="clear"):
            col.delete(**arguments)
    assert len(col) == 3 and col.delete([]) == 0 and col.delete(["zz", "a", "a"]) == 1


def test_update_metadata_refuses_what_would_grow_too_large(col):
    col.update_metadata(["a"], {"x": "y" * 10_000_000})
    with pytest.raises(InvalidInputError, match="at most 16,777,216"):
        col.update_metadata(["b", "a"], {"z": "y" * 10_000_000})
    assert col.get(["b"])[0].metadata == {}
    with pytest.raises(InvalidInputError, match="2 entries for 1 id;"):
        col.update_metadata(["a"], [{}, {}])


def test_a_closed_collection_says_so(tmp_path):
    col = bqstore.open(tmp_path)
    col.close()
    col.close()
    for call in (lambda: col.add(GOOD), lambda: col.search([1.0]), lambda: len(col), lambda: col.get(["a"]), col.info):
        with pytest.raises(bqstore.ClosedError, match="open it again"):
            call()
    assert "closed" in repr(col)


def test_a_reader_cannot_write(tmp_path):
    with pytest.raises(bqstore.NotFoundError, match="no collection"):
        bqstore.open(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, read_only=True) as reader:
        col.add(GOOD, ["a", "b", "c"])
        for call in (
            lambda: reader.add(GOOD),
            lambda: reader.delete(["a"]),
            lambda: reader.update_metadata(["a"], {}),
            reader.clear,
            reader.flush,
        ):
            with pytest.raises(bqstore.ReadOnlyError, match="read_only=True"):
                call()
        assert len(reader) == 3


def test_an_exclusive_writer_refuses_others(tmp_path):
    with bqstore.open(tmp_path, exclusive=True):
        for more in ({}, {"exclusive": True}, {"lock_timeout": 0}):
            with pytest.raises(bqstore.LockedError, match=r"writer already: this process .*read_only=True"):
                bqstore.open(tmp_path, **more)
    both = {"exclusive": True, "read_only": True}
    for more in ({"lock_timeout": -1}, {"lock_timeout": "soon"}, {"exclusive": 1}, both):
        with pytest.raises(bqstore.InvalidInputError, match=r"lock_timeout|exclusive"):
            bqstore.open(tmp_path, **more)
    with bqstore.open(tmp_path, "one"), bqstore.open(tmp_path, "two"):
        pass


def test_originals_none_says_what_it_cannot_do():
    with bqstore.open(originals="none") as col:
        col.add(GOOD, ["a", "b", "c"])
        assert len(col.search([1.0, 0, 0, 0])) == 3
        for arguments in ({"exact": True}, {"ignore_quantization": True}, {"rescore": True}, {"with_vectors": True}):
            with pytest.raises(InvalidInputError, match="keeps none"):
                col.search([1.0, 0, 0, 0], **arguments)
        for call in (
            lambda: col.get(["a"], with_vectors=True),
            lambda: col.scroll(with_vectors=True),
            lambda: col.more_like(["a"]),
        ):
            with pytest.raises(InvalidInputError, match="keeps none"):
                call()


def test_vectors_of_more_dimensions_than_there_may_be():
    with bqstore.open() as col, pytest.raises(InvalidInputError, match="has 16385 dimensions; expected 1 to 16,384"):
        col.add(np.ones((1, 16_385)))


def test_float16_refuses_what_it_cannot_hold():
    with bqstore.open(originals="float16") as col:
        with pytest.raises(InvalidInputError, match="keeps at most 65504"):
            col.add([[70_000.0, 1.0]])
        assert len(col) == 0
        col.add([[1e-9, 1e-9]], ["short"])  # it has a scale of its own
        np.testing.assert_allclose(col.get(["short"], with_vectors=True)[0].vector, 1e-9, rtol=2**-11)


def test_what_is_refused_leaves_the_dimension_open():
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError):
            col.add([[1.0, 2.0], [np.nan, 1.0]])
        col.add([[1.0, 2.0, 3.0]])
        assert col.info().dim == 3


def test_inputs_are_not_changed():
    vectors, metadata = GOOD.copy(), [{"when": datetime.date(2024, 1, 2), "n": np.int64(3), "b": np.bool_(True)}]
    with bqstore.open() as col:
        ids = [None]
        col.add(vectors[:1], ids, metadatas=metadata)
        assert ids == [None] and metadata[0]["when"] == datetime.date(2024, 1, 2)
        assert next(col.scroll()).metadata == {"when": datetime.date(2024, 1, 2), "n": 3, "b": True}
    np.testing.assert_array_equal(vectors, GOOD)
