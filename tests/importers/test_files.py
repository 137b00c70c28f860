"""JSON lines, arrays, tables, and the JSON of LlamaIndex and LangChain, each written by whoever writes them."""

import json

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import VectorStoreQuery

import bqstore
from bqstore.importers import export, import_from, open_source
from llama_index.vector_stores.bqstore import BQVectorStore
from tests.importers.given import DIM, IDS, METADATAS, TEXTS, VECTORS, N, imported

ROWS = [
    {"id": id_, "text": text, "metadata": metadata, "vector": vector.tolist()}
    for id_, text, metadata, vector in zip(IDS, TEXTS, METADATAS, VECTORS, strict=True)
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("names", [("id", "text", "vector"), ("_id", "page_content", "embedding")])
def test_json_lines_with_the_usual_names_of_columns(tmp_path, names):
    rows = [
        dict(zip((*names, "metadata"), (r["id"], r["text"], r["vector"], r["metadata"]), strict=True)) for r in ROWS
    ]
    imported(lines(tmp_path / "all.jsonl", rows), tmp_path / "store")


def test_what_is_no_other_column_is_metadata(tmp_path):
    rows = [{"id": r["id"], "text": r["text"], "vector": r["vector"], **r["metadata"]} for r in ROWS]
    imported(lines(tmp_path / "all.jsonl", rows), tmp_path / "store")


def test_an_npy_file_with_json_lines_beside_it(tmp_path):
    np.save(tmp_path / "all.npy", VECTORS)
    lines(tmp_path / "all.jsonl", [{key: row[key] for key in ("id", "text", "metadata")} for row in ROWS])
    assert imported(tmp_path / "all.npy", tmp_path / "store").kind == "arrays"


def test_an_npz_file_of_columns(tmp_path):
    columns = {key: np.array([each[key] for each in METADATAS]) for key in METADATAS[0]}
    np.savez(tmp_path / "all.npz", embeddings=VECTORS, ids=np.array(IDS), texts=np.array(TEXTS), **columns)
    imported(tmp_path / "all.npz", tmp_path / "store")


def test_arrays_of_python_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "all.npz", vectors=np.array([object()], object))
    with pytest.raises(bqstore.CorruptionError, match="without Python objects"):
        import_from(tmp_path / "all.npz", tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("ending", [".jsonl", ".npz"])
def test_what_is_exported_comes_back_without_loss(tmp_path, ending):
    with bqstore.open(tmp_path / "old", distance="dot") as col:
        metadatas = [{}, {"tags": ["a", "b"], "none": None, "deep": {"x": [1.5]}}, {"s": "e\u0301 \u4e2d\0"}]
        col.add(VECTORS[:3], ["a", "b\0", "\u4e2d"], ["one", None, ""], metadatas)
        assert export(col, tmp_path / f"all{ending}") == 3
        report = import_from(tmp_path / f"all{ending}", tmp_path / "new", distance="dot")
        assert report.ok and report.compared == 3
        with bqstore.open(tmp_path / "new") as new:
            assert list(new.scroll()) == list(col.scroll())
        with pytest.raises(bqstore.InvalidInputError, match="exists; remove it"):
            export(col, tmp_path / f"all{ending}")
    assert not list(tmp_path.glob(".*"))


def test_a_persisted_llama_index_is_found_again_by_our_store(tmp_path):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book")}
    nodes = [
        TextNode(id_=id_, text=text, metadata=metadata, embedding=vector.tolist(), relationships=source)
        for id_, text, metadata, vector in zip(IDS, TEXTS, METADATAS, VECTORS, strict=True)
    ]
    index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=DIM))
    index.storage_context.persist(str(tmp_path / "old"))
    assert imported(tmp_path / "old", tmp_path / "store").kind == "llama-index"
    store = BQVectorStore(str(tmp_path / "store"))
    found = store.query(VectorStoreQuery(query_embedding=VECTORS[3].tolist(), similarity_top_k=3))
    theirs = StorageContext.from_defaults(persist_dir=str(tmp_path / "old")).docstore.get_node(found.ids[0])
    (ours,) = (node for node in found.nodes if node.node_id == "d3")
    assert found.ids[0] == "d3" and ours.ref_doc_id == "book"
    assert ours.model_dump(exclude={"embedding"}) == theirs.model_dump(exclude={"embedding"})
    store.delete("book")
    assert store.collection.count() == 0


def test_a_dump_of_langchains_store_in_memory(tmp_path):
    old = InMemoryVectorStore(DeterministicFakeEmbedding(size=DIM))
    pairs = zip(IDS, TEXTS, METADATAS, strict=True)
    old.add_documents([Document(text, metadata=metadata, id=id_) for id_, text, metadata in pairs])
    old.dump(str(tmp_path / "old.json"))
    vectors = np.array([old.store[id_]["vector"] for id_ in IDS], np.float32)
    assert imported(tmp_path / "old.json", tmp_path / "store", vectors=vectors).kind == "langchain-memory"


def test_an_import_that_was_interrupted_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("bqstore.importers.source.AT_ONCE", 7)
    file = lines(tmp_path / "all.jsonl", ROWS)

    def stop(done):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_from(file, tmp_path / "store", progress=stop)
    report = import_from(file, tmp_path / "store")
    assert (report.unchanged, report.added, report.compared, report.neighbors) == (21, N - 21, N, 1.0)


def test_a_document_that_was_changed_in_the_source_replaces_the_one_that_is_there(tmp_path):
    import_from(lines(tmp_path / "all.jsonl", ROWS), tmp_path / "store")
    changed = [{**ROWS[0], "text": "new"}, {**ROWS[1], "vector": [0.0] * 7 + [1.0]}, {**ROWS[2], "metadata": {}}]
    report = import_from(lines(tmp_path / "all.jsonl", [*changed, *ROWS[3:]]), tmp_path / "store")
    assert (report.added, report.unchanged, report.compared, report.ok) == (3, N - 3, N, True)


def test_of_documents_with_one_id_the_last_stays(tmp_path):
    report = import_from(lines(tmp_path / "all.jsonl", [*ROWS, {**ROWS[5], "text": "last"}]), tmp_path / "store")
    assert report.ok
    with bqstore.open(tmp_path / "store") as col:
        assert col.get(["d5"])[0].text == "last" and col.count() == N


def test_a_collection_with_documents_of_its_own_keeps_them(tmp_path):
    with bqstore.open(tmp_path / "store") as col:
        col.add(np.ones((1, DIM)), ["own"])
    report = import_from(lines(tmp_path / "all.jsonl", ROWS), tmp_path / "store")
    assert report.ok and report.neighbors is None  # others are nearest, too
    with bqstore.open(tmp_path / "store") as col:
        assert "own" in col and col.count() == N + 1


def test_documents_that_cannot_be_stored_are_told(tmp_path):
    deep = {"a": 1}
    for _ in range(120):
        deep = {"a": deep}
    rows = [ROWS[0], {**ROWS[1], "vector": [float("nan")] * DIM}, {**ROWS[2], "metadata": deep}]
    report = import_from(lines(tmp_path / "all.jsonl", rows), tmp_path / "store")
    assert [each.id for each in report.skipped] == ["d1", "d2"] and all(each.reason for each in report.skipped)
    assert (report.added, report.compared, report.ok) == (1, 1, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "document 1 is no JSON"),
        ("[1]", "is no JSON object"),
        ('{"id": "a"}', "no vector"),
        ('{"id": "a", "vector": [1, 2]}\n{"id": "b", "vector": [1]}', "document 'b' has the shape"),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path, text, said):
    (tmp_path / "all.jsonl").write_text(text)
    with pytest.raises(bqstore.BqstoreError, match=said):
        import_from(tmp_path / "all.jsonl", tmp_path / "store")


def test_what_is_no_store_is_refused_by_name(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, said in ((tmp_path / "none", "nothing at"), (tmp_path / "folder", "not recognized as one of")):
        with pytest.raises(bqstore.BqstoreError, match=said):
            open_source(path)
    with pytest.raises(bqstore.InvalidInputError, match="expected one of 'faiss', 'chroma'"):
        open_source(tmp_path / "folder", kind="pinecone")
