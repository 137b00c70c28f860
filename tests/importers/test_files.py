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


def test_an_npz_took_its_documents_from_lines_of_the_same_name(tmp_path):
    np.savez(tmp_path / "all.npz", vectors=VECTORS[:2], ids=np.array(["a", "b"]))
    lines(tmp_path / "all.jsonl", [{"id": "x", "text": "another"}] * 2)
    import_from(tmp_path / "all.npz", tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        assert [(each.id, each.text) for each in col.scroll()] == [("a", None), ("b", None)]


def test_lines_beside_an_array_must_be_as_many(tmp_path):
    np.save(tmp_path / "all.npy", VECTORS[:2])
    for count, said in ((1, "ends after 1"), (3, "has more documents than the 2")):
        lines(tmp_path / "all.jsonl", [{"text": "one"}] * count)
        with pytest.raises(bqstore.CorruptionError, match=said):
            import_from(tmp_path / "all.npy", tmp_path / "store")


def test_files_without_ids_overwrote_each_other(tmp_path):
    for name in ("one", "two"):
        rows = [{"text": f"{name} {i}", "vector": VECTORS[i].tolist()} for i in range(3)]
        import_from(lines(tmp_path / f"{name}.jsonl", rows), tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        assert sorted(each.text for each in col.scroll()) == [
            f"{name} {i}" for name in ("one", "two") for i in range(3)
        ]


@pytest.mark.parametrize("given", ["123", '["x"]', ["x"], 5, "no json"])
def test_metadata_that_is_no_object_was_dropped(tmp_path, given):
    import_from(lines(tmp_path / "a.jsonl", [{"id": "a", "vector": [1, 0], "metadata": given}]), tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        assert col.get(["a"])[0].metadata == {"metadata": given}


def test_a_key_of_llama_indexs_name_that_holds_no_node_stays(tmp_path):
    row = {"id": "a", "vector": [1, 0], "_node_content": "{}"}
    import_from(lines(tmp_path / "a.jsonl", [row]), tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        assert col.get(["a"])[0].metadata == {"_node_content": "{}"}


def test_a_collection_without_originals_takes_an_import(tmp_path):
    report = import_from(lines(tmp_path / "all.jsonl", ROWS), tmp_path / "store", originals="none")
    assert (report.added, report.compared, report.neighbors, report.ok) == (N, N, None, True)


def test_when_nothing_can_be_stored_the_reasons_are_told(tmp_path):
    rows = [{"id": "a", "vector": [1, 2], "k": float("nan")}, {"id": "b\ud800", "vector": [1, 2]}]
    report = import_from(lines(tmp_path / "all.jsonl", rows), tmp_path / "store")
    assert report.added == 0 and [each.index for each in report.skipped] == [0, 1] and report.neighbors is None


def test_vectors_as_json_text_are_read(tmp_path):
    import_from(lines(tmp_path / "a.jsonl", [{"id": "a", "vector": "[1, 2]"}]), tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        assert col.get(["a"], with_vectors=True)[0].vector.tolist() == [1, 2]


@pytest.mark.parametrize("vector", ["ab", 5, {"a": 1}, [[1], [2, 3]], ["a", "b"], [10**400, 1]])
def test_a_vector_that_is_none_is_named(tmp_path, vector):
    rows = [{"id": "first", "vector": [1, 2]}, {"id": "a", "vector": vector}]
    for some in (rows, rows[1:]):
        with pytest.raises(bqstore.InvalidInputError, match="'a'"):
            import_from(lines(tmp_path / "a.jsonl", some), tmp_path / "store")


@pytest.mark.parametrize("kind", ["faiss", "chroma", "qdrant", "llama-index", "langchain-memory", "jsonl", "arrays"])
def test_a_kind_that_does_not_fit_is_an_error_by_name(tmp_path, kind):
    (tmp_path / "file.txt").write_text("x")
    for path in (tmp_path, tmp_path / "file.txt"):
        with pytest.raises(bqstore.InvalidInputError, match="leave kind= out"):
            open_source(path, kind=kind)


def test_arguments_of_the_wrong_kind_are_named(tmp_path):
    with bqstore.open() as col:
        for call in (
            lambda: import_from(None, tmp_path / "store"),
            lambda: export(col, None),
            lambda: export("store", tmp_path / "all.jsonl"),
            lambda: export(col, tmp_path / "none" / "all.jsonl"),
        ):
            with pytest.raises(bqstore.InvalidInputError):
                call()
