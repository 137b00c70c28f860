"""Folders of FAISS, Chroma and Qdrant as these write them, read without their libraries."""

import datetime
import decimal
import pickle
import sqlite3
import sys
import uuid
from contextlib import closing

import numpy as np
import pytest
from langchain_core.documents import Document
from llama_index.core import schema
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from qdrant_client import QdrantClient, models

import bqstore
from bqstore.importers import chroma, import_from, open_source
from bqstore.importers import source as sources
from llama_index.vector_stores.bqstore import BQVectorStore
from tests.importers.folders import ADD, DELETE, UPDATE, UPSERT, ChromaFolder, described, flat_index, stand_in
from tests.importers.given import DIM, IDS, METADATAS, TEXTS, VECTORS, N, imported


def documents():
    return [
        Document(text, id=id_, metadata=metadata) for id_, text, metadata in zip(IDS, TEXTS, METADATAS, strict=True)
    ]


def faiss_folder(path, monkeypatch, documents, *, name="index", index=None, names=None):
    """A folder as `FAISS.save_local` writes it; `InMemoryDocstore` is of a library that is not installed."""
    docstore = stand_in(monkeypatch, "langchain_community.docstore.in_memory", "InMemoryDocstore")
    held = docstore(_dict={each.id: each for each in documents})
    names = {place: each.id for place, each in enumerate(documents)} if names is None else names
    path.mkdir(exist_ok=True)
    (path / f"{name}.pkl").write_bytes(pickle.dumps((held, names)))
    (path / f"{name}.faiss").write_bytes(flat_index(VECTORS) if index is None else index)
    return path


@pytest.mark.parametrize(("kind", "metric", "distance"), [(b"IxF2", 1, "euclid"), (b"IxFI", 0, "dot")])
def test_a_flat_index_of_faiss(tmp_path, monkeypatch, kind, metric, distance):
    source = faiss_folder(tmp_path / "old", monkeypatch, documents(), index=flat_index(VECTORS, metric, kind))
    report = imported(source, tmp_path / "store")
    assert (report.kind, report.distance, report.dim, report.notes) == ("faiss", distance, DIM, ())


def test_an_index_of_faiss_is_found_by_its_file_and_by_its_name(tmp_path, monkeypatch):
    source = faiss_folder(tmp_path / "old", monkeypatch, documents(), name="one")
    faiss_folder(tmp_path / "old", monkeypatch, documents()[:3], name="two", index=flat_index(VECTORS[:3]))
    assert open_source(source / "two.faiss").count == 3
    assert open_source(source, from_collection="two").count == 3
    with pytest.raises(bqstore.InvalidInputError, match=r"2 collections \('one', 'two'\); say which"):
        open_source(source)
    faiss_folder(tmp_path / "old", monkeypatch, documents())
    assert open_source(source).count == N


def test_metadata_of_a_pickle_comes_in_the_form_of_json(tmp_path, monkeypatch):
    day, one = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.timezone.utc), uuid.UUID(int=5)
    given = {"day": day, "id": one, "tags": ("a", "b"), "deep": {"set": {1}}}
    source = faiss_folder(tmp_path / "old", monkeypatch, [Document("text", id="a", metadata=given)])
    report = import_from(source, tmp_path / "store")
    assert report.ok and report.compared == 1 and report.notes == (f"{N - 1} vectors without a document are left out",)
    with bqstore.open(tmp_path / "store") as col:
        (found,) = col.get(["a"])
        assert found.metadata == {"day": day, "id": str(one), "tags": ["a", "b"], "deep": {"set": [1]}}
        assert len(col.search(None, filter={"day": day})) == 1


def test_metadata_that_is_stored_in_another_form_took_a_collection_for_each_document(tmp_path, monkeypatch):
    given = [Document("text", id=id_, metadata={"price": decimal.Decimal("1.5"), "n": i}) for i, id_ in enumerate(IDS)]
    source = faiss_folder(tmp_path / "old", monkeypatch, given)
    opened, real = [], bqstore.open
    monkeypatch.setattr(bqstore, "open", lambda *args, **kwargs: opened.append(args) or real(*args, **kwargs))
    assert import_from(source, tmp_path / "store").compared == N
    assert import_from(source, tmp_path / "store").unchanged == N
    assert len(opened) < 8  # it was three times N


def test_an_empty_index_of_faiss(tmp_path, monkeypatch):
    source = faiss_folder(tmp_path / "old", monkeypatch, [], index=flat_index(VECTORS[:0]))
    report = import_from(source, tmp_path / "store")
    assert (report.documents, report.dim, report.ok, report.neighbors) == (0, DIM, True, None)


def test_an_index_of_faiss_that_is_not_flat_needs_faiss(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    source = faiss_folder(tmp_path / "old", monkeypatch, documents(), index=b"IHNf" + bytes(200))
    with pytest.raises(bqstore.InvalidInputError, match=r"no flat index of faiss.*pip install faiss-cpu"):
        import_from(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_faiss_folder_without_its_documents_says_so(tmp_path, monkeypatch):
    source = faiss_folder(tmp_path / "old", monkeypatch, documents())
    with pytest.raises(bqstore.NotFoundError, match="no collection 'other'; it has 'index'"):
        open_source(source, from_collection="other")
    for held in (1, ({}, [1]), (documents()[0], {}), ({"_dict": 5}, {})):
        (source / "index.pkl").write_bytes(pickle.dumps(held))
        with pytest.raises(bqstore.CorruptionError, match=r"index\.pkl .*docstore"):
            open_source(source)
    (source / "index.pkl").unlink()
    with pytest.raises(bqstore.CorruptionError, match=r"index\.pkl .* it is missing"):
        open_source(source)


# ---- Chroma


def filled(made, name="docs", **options):
    """A collection with the given documents, their vectors in the log alone; its id."""
    docs = made.collection(name, **options)
    for id_, text, metadata, vector in zip(IDS, TEXTS, METADATAS, VECTORS, strict=True):
        made.document(docs, id_, text, metadata)
        made.log(docs, ADD, id_, vector)
    return docs


CONFIGURED = '{"defaults": {"float_list": {"vector_index": {"config": {"space": "%s"}}}}}'


@pytest.mark.parametrize(
    ("options", "distance"),
    [
        ({}, "euclid"),
        ({"space": "ip"}, "dot"),
        ({"space": "cosine", "config": CONFIGURED % "l2"}, "cosine"),
        ({"space": "other", "config": CONFIGURED % "ip"}, "dot"),
        ({"config": CONFIGURED % "cosine"}, "cosine"),
        ({"config": None}, "euclid"),
    ],
)
def test_a_folder_of_chroma_whose_vectors_are_in_the_log(tmp_path, options, distance):
    made = ChromaFolder(tmp_path / "old")
    filled(made, **options)
    report = imported(tmp_path / "old" / "chroma.sqlite3", tmp_path / "store")
    assert (report.kind, report.collection, report.distance, report.notes) == ("chroma", "docs", distance, ())


@pytest.mark.parametrize("number", [int, lambda seen: seen.to_bytes(8, "big")], ids=["number", "bytes"])
def test_an_index_of_chroma_and_what_the_log_has_after_it(tmp_path, number):
    """The log may still hold what the index has taken; an id that is there is not added again."""
    made = ChromaFolder(tmp_path / "old")
    docs = filled(made)
    made.index(docs, IDS[:30], VECTORS[:30], seen=30, number=number)
    made.log(docs, ADD, "d0", VECTORS[9])
    made.log(docs, UPDATE, "d1", VECTORS[0])
    made.log(docs, UPDATE, "d2")
    made.log(docs, UPSERT, "d35", VECTORS[8])
    made.log(docs, DELETE, "d29")
    made.log(docs, DELETE, "d39")
    made.db.execute("DELETE FROM embeddings WHERE embedding_id IN ('d29', 'd39')")
    expected = VECTORS.copy()
    expected[[1, 35]] = VECTORS[[0, 8]]
    kept = [i for i in range(N) if i not in (29, 39)]
    some = {"ids": IDS, "texts": TEXTS, "metadatas": METADATAS}
    imported(
        tmp_path / "old",
        tmp_path / "store",
        vectors=expected[kept],
        **{key: [values[i] for i in kept] for key, values in some.items()},
    )


def test_an_index_of_an_older_chroma(tmp_path, monkeypatch):
    """Its labels are an object, which knows how much of the log is in the index; metadata held no lists."""
    made = ChromaFolder(tmp_path / "old", arrays=False, columns="topic TEXT")
    docs = filled(made, space="cosine")
    module = "chromadb.segment.impl.vector.local_persistent_hnsw"
    kept = stand_in(monkeypatch, module, "PersistentData")
    made.index(docs, IDS, VECTORS, pickled=lambda **held: kept(**{**held, "max_seq_id": N}))
    made.db.execute("UPDATE embeddings_queue SET vector = zeroblob(32)")
    (note,) = imported(tmp_path / "old", tmp_path / "store").notes
    assert "at unit length" in note


def test_vectors_of_chroma_under_cosine_lost_their_lengths(tmp_path):
    """Its index keeps unit vectors, and their lengths in a file beside it; those of the log have theirs."""
    made = ChromaFolder(tmp_path / "old")
    docs = filled(made, space="cosine")
    lengths = np.linalg.norm(VECTORS, axis=1)
    units = VECTORS / lengths[:, None]
    made.index(docs, IDS[:30], units[:30], lengths=lengths[:30], seen=30)
    expected = np.concatenate([units[:30] * lengths[:30, None], VECTORS[30:]])
    np.testing.assert_allclose(expected, VECTORS, 1e-6)
    assert imported(tmp_path / "old", tmp_path / "store", vectors=expected).notes == ()


def test_a_folder_of_a_chroma_without_truth_values_could_not_be_read(tmp_path):
    """Before 0.4.15 there was no column for them."""
    made = ChromaFolder(tmp_path / "old", arrays=False, columns="topic TEXT")
    filled(made)
    made.db.executescript(
        "CREATE TABLE fewer (id INTEGER, key TEXT, string_value TEXT, int_value INTEGER, float_value REAL);"
        "INSERT INTO fewer SELECT id, key, string_value, coalesce(int_value, bool_value), float_value "
        "FROM embedding_metadata; DROP TABLE embedding_metadata; ALTER TABLE fewer RENAME TO embedding_metadata"
    )
    imported(tmp_path / "old", tmp_path / "store")


def test_an_index_of_chroma_that_is_empty_yet(tmp_path):
    made = ChromaFolder(tmp_path / "old", columns="topic TEXT")
    made.index(filled(made), [], VECTORS[:0])
    imported(tmp_path / "old", tmp_path / "store")


def test_one_of_several_collections_of_chroma(tmp_path):
    made = ChromaFolder(tmp_path / "old")
    docs, others = made.collection("docs"), made.collection("others")
    metadatas = [{"tags": ["a", "b"], "n": i} for i in range(10)]
    for i in range(10):
        for into, tags in ((docs, {"tags": ["a", "b"], "n": i}), (others, {"tags": ["x"], "other": i})):
            made.document(into, IDS[i], TEXTS[i], tags)
            made.log(into, ADD, IDS[i], VECTORS[i])
    with pytest.raises(bqstore.InvalidInputError, match=r"2 collections \('docs', 'others'\); say which"):
        open_source(tmp_path / "old")
    some = {"ids": IDS[:10], "texts": TEXTS[:10], "vectors": VECTORS[:10], "metadatas": metadatas}
    imported(tmp_path / "old", tmp_path / "store", from_collection="docs", **some)


def test_a_document_of_chroma_without_a_vector_is_left_out_and_told(tmp_path):
    made = ChromaFolder(tmp_path / "old")
    made.document(filled(made), "lost", "no vector", {})
    assert imported(tmp_path / "old", tmp_path / "store").notes == (
        "1 documents have no vector in the folder and are left out",
    )


def test_what_is_damaged_in_a_folder_of_chroma_is_named(tmp_path):
    made = ChromaFolder(tmp_path / "old")
    with pytest.raises(bqstore.InvalidInputError, match="no collection: there is nothing to import"):
        open_source(tmp_path / "old")
    docs = filled(made)
    made.index(docs, IDS, VECTORS)
    labels = tmp_path / "old" / f"{docs}-VECTOR" / "index_metadata.pickle"
    for held in ([1], {"id_to_label": 5}, {"id_to_label": {"a": []}}, {"id_to_label": {}, "max_seq_id": "x"}):
        labels.write_bytes(pickle.dumps(held))
        with pytest.raises(bqstore.CorruptionError):
            open_source(tmp_path / "old")
    labels.unlink()
    for vector in (b"123", "text"):  # bytes of half a number; no bytes at all
        made.db.execute("UPDATE embeddings_queue SET vector = ? WHERE id = 'd7'", (vector,))
        with pytest.raises(bqstore.CorruptionError, match="old cannot be read"):
            open_source(tmp_path / "old")
    made.db.execute("DELETE FROM segments WHERE scope = 'VECTOR'")
    with pytest.raises(bqstore.CorruptionError, match="'docs' has lost its segments"):
        open_source(tmp_path / "old")
    made.collection("docs", database="another")
    with pytest.raises(bqstore.InvalidInputError, match="2 collections are named 'docs'"):
        open_source(tmp_path / "old", from_collection="docs")


def test_nodes_of_llama_index_in_a_folder_of_chroma(tmp_path):
    """They find their way back into our store for LlamaIndex, with their relationships."""
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book")}
    node = TextNode(id_="a", text="", metadata={"page": 1}, relationships=source)
    made = ChromaFolder(tmp_path / "old")
    docs = made.collection("docs")
    given = {key: value for key, value in node_to_metadata_dict(node, remove_text=True).items() if value is not None}
    made.document(docs, "a", "the text", given)
    made.document(docs, "b", "another", {"_node_content": "no node"})
    whole = node_to_metadata_dict(schema.Document(id_="c", text="a document", metadata={"page": 2}))
    made.document(docs, "c", None, {key: value for key, value in whole.items() if value is not None})
    for id_, vector in zip("abc", VECTORS, strict=False):
        made.log(docs, ADD, id_, vector)
    assert import_from(tmp_path / "old", tmp_path / "store").ok
    with bqstore.open(tmp_path / "store") as col:
        first, second = col.get(["a", "b"])
        assert (first.text, first.metadata["page"], first.metadata[bqstore.REF_DOC_ID_KEY]) == ("the text", 1, "book")
        assert (second.text, second.metadata) == ("another", {"_node_content": "no node"})
    first, last = BQVectorStore(str(tmp_path / "store")).get_nodes(["a", "c"])
    assert (first.text, first.metadata, first.ref_doc_id) == ("the text", {"page": 1}, "book")
    assert (last.text, last.metadata) == ("a document", {"page": 2})


# ---- Qdrant's local mode


def qdrant_folder(path, points, **collections):
    local = QdrantClient(path=str(path))
    for name, options in collections.items():
        local.create_collection(name, **options)
    if points:
        local.upsert("docs", points)
    local.close()
    return path


def space(distance=models.Distance.EUCLID, **options):
    return models.VectorParams(size=DIM, distance=distance, **options)


@pytest.mark.parametrize(
    "payload",
    [
        lambda text, metadata: {"page_content": text, "metadata": metadata},
        lambda text, metadata: {"text": text, **metadata},
        lambda text, metadata: {"document": text, **metadata},
        lambda text, metadata: {"page_content": text, **metadata},
    ],
    ids=["langchain", "text", "document", "page_content"],
)
def test_a_folder_of_qdrant(tmp_path, payload):
    points = [
        models.PointStruct(id=i, vector=vector.tolist(), payload=payload(text, metadata))
        for i, (vector, text, metadata) in enumerate(zip(VECTORS, TEXTS, METADATAS, strict=True))
    ]
    source = qdrant_folder(tmp_path / "old", points, docs={"vectors_config": space()})
    report = imported(source, tmp_path / "store", ids=[str(i) for i in range(N)])
    assert (report.kind, report.collection, report.distance) == ("qdrant", "docs", "euclid")


def test_of_the_vectors_of_qdrant_those_are_offered_that_a_collection_can_hold(tmp_path):
    """Sparse ones and lists of vectors are not; points without the one that is asked for are told."""
    many = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    options = {
        "vectors_config": {"a": space(), "b": space(), "many": space(multivector_config=many)},
        "sparse_vectors_config": {"words": models.SparseVectorParams()},
    }
    words = models.SparseVector(indices=[1], values=[2.0])
    points = [
        models.PointStruct(id=1, vector={"a": VECTORS[0].tolist(), "words": words}),
        models.PointStruct(id=2, vector={"b": VECTORS[1].tolist()}),
    ]
    sparse = {"sparse_vectors_config": {"words": models.SparseVectorParams()}}
    source = qdrant_folder(tmp_path / "old", points, docs=options, none=sparse)
    described(source, old={"vectors": None})
    with pytest.raises(bqstore.InvalidInputError, match=r"2 collections \('docs/a', 'docs/b'\)"):
        open_source(source)
    some = {"ids": ["1"], "texts": [None], "metadatas": [{}], "vectors": VECTORS[:1]}
    report = imported(source, tmp_path / "store", from_collection="docs/a", **some)
    assert report.notes == ("1 points have no vector 'a' and are left out",)


@pytest.mark.parametrize(("kept", "moved"), [("storage.dbm", True), ("storage.dbm.dat", False)])
def test_a_folder_of_qdrants_first_releases_could_not_be_opened_and_that_was_all_that_was_said(tmp_path, kept, moved):
    source = qdrant_folder(tmp_path / "old", [], docs={"vectors_config": space(models.Distance.DOT)})
    file = source / "collection" / "docs" / "storage.sqlite"
    file.rename(file.with_name(kept))
    with pytest.raises(bqstore.InvalidInputError, match=r"before 1\.1\.7, .* as JSON lines with") as caught:
        open_source(source)
    assert ("open the folder once with qdrant-client 1.7" in str(caught.value)) == moved


def test_what_is_damaged_in_a_folder_of_qdrant_is_named(tmp_path):
    source = qdrant_folder(tmp_path / "old", [], docs={"vectors_config": space(models.Distance.MANHATTAN)})
    with pytest.raises(bqstore.InvalidInputError, match="'docs' has the distance 'Manhattan'; expected one of Cosine"):
        open_source(source)
    described(source, docs={"vectors": {"size": DIM, "distance": "Dot"}})
    file = source / "collection" / "docs" / "storage.sqlite"
    for held in ([1], {"vector": [1.0]}, {"id": 1, "vector": [1.0], "payload": "text"}):  # no point as a dictionary
        with sqlite3.connect(file) as db:
            db.execute("DELETE FROM points")
            db.execute("INSERT INTO points VALUES ('1', ?)", (pickle.dumps(held),))
        db.close()
        with pytest.raises(bqstore.CorruptionError, match="old cannot be read"):
            import_from(source, tmp_path / "store")
    for text in ("{", "[]", '{"collections": 5}', '{"collections": {"docs": {"vectors": [1]}}}'):
        (source / "meta.json").write_text(text)
        with pytest.raises(bqstore.CorruptionError, match=r"meta\.json cannot be read"):
            open_source(source)


@pytest.mark.parametrize("kind", ["chroma", "qdrant"])
def test_whoever_wrote_to_a_source_while_it_was_imported_waited_and_failed(tmp_path, monkeypatch, kind):
    """A statement was open through all of the import, and SQLite gives a writer up after five seconds."""
    for module in (sources, chroma):
        monkeypatch.setattr(module, "AT_ONCE", 2)
    path = tmp_path / "old"
    if kind == "chroma":
        made = ChromaFolder(path)
        docs = made.collection("docs")
        for i, vector in enumerate(VECTORS[:9]):
            made.document(docs, str(i), "x", {"n": i})
            made.log(docs, ADD, str(i), vector)
        made.db.close()
        file = path / "chroma.sqlite3"
    else:
        points = [models.PointStruct(id=i, vector=v.tolist(), payload={"n": i}) for i, v in enumerate(VECTORS[:9])]
        qdrant_folder(path, points, docs={"vectors_config": space()})
        file = path / "collection" / "docs" / "storage.sqlite"
    found = []
    with closing(sqlite3.connect(file, timeout=0)) as writer:
        for batch in open_source(path).batches():
            found += batch.ids
            writer.execute(f"PRAGMA user_version = {len(found)}")  # a change of the file, and its commit
    assert found == [str(i) for i in range(9)]
