"""JSON lines, arrays, tables, and the JSON of LlamaIndex and LangChain, each written by whoever writes them."""

import json
import sys

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
    with pytest.raises(bqstore.CorruptionError, match="Object arrays cannot be loaded"):
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


def test_an_npz_held_each_document_as_long_as_the_longest(tmp_path):
    texts = ["x" * 100_000, *["short"] * 49]
    with bqstore.open() as col:
        col.add(np.eye(50), [str(i) for i in range(50)], texts)
        export(col, tmp_path / "all.npz")
    assert (tmp_path / "all.npz").stat().st_size < 200_000  # it had 20 million
    with np.load(tmp_path / "all.npz", allow_pickle=False) as loaded:
        assert loaded["vectors"].shape == (50, 50)
        assert json.loads(loaded["documents.jsonl"].splitlines()[1]) == {"id": "1", "text": "short", "metadata": {}}
    report = import_from(tmp_path / "all.npz", tmp_path / "store")
    assert report.ok and report.compared == 50


def test_an_npz_that_an_earlier_release_has_exported_is_read(tmp_path):
    documents = [json.dumps({key: row[key] for key in ("id", "text", "metadata")}) for row in ROWS]
    np.savez(tmp_path / "all.npz", vectors=VECTORS, documents=np.array(documents))
    imported(tmp_path / "all.npz", tmp_path / "store")


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


@pytest.mark.parametrize("vectors", [np.ones((2, 3), np.complex64), np.array([["a", "b"]]), np.ones((2, 3), bool)])
def test_arrays_that_hold_no_real_numbers_were_refused_only_after_a_store_was_made(tmp_path, vectors):
    np.save(tmp_path / "all.npy", vectors)
    with pytest.raises(bqstore.InvalidInputError, match=rf"all\.npy are {vectors.dtype} of shape .*real numbers"):
        import_from(tmp_path / "all.npy", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_an_npz_without_vectors_says_what_it_has(tmp_path):
    np.savez(tmp_path / "all.npz", x=VECTORS, ids=np.array(IDS))
    with pytest.raises(bqstore.InvalidInputError, match=r"named .*'embedding'.*; it has 'x' \(40, 8\), 'ids' \(40,\)"):
        open_source(tmp_path / "all.npz")
    (tmp_path / "all.npz").write_bytes((tmp_path / "all.npz").read_bytes()[:200])
    with pytest.raises(bqstore.CorruptionError, match=r"all\.npz cannot be read"):
        open_source(tmp_path / "all.npz")


def test_an_npz_of_plain_documents_was_read_as_json(tmp_path):
    texts = np.array(["one", '{"id": 7}', ""])
    np.savez(tmp_path / "all.npz", vectors=VECTORS[:3], documents=texts, pages=np.arange(3), axis=np.arange(8))
    report = import_from(tmp_path / "all.npz", tmp_path / "store")
    assert report.ok and report.notes == ("'axis' of shape (8,) is left out",)
    np.savez(tmp_path / "some.npz", vectors=VECTORS[:2], documents=texts[:2])
    np.savez(tmp_path / "none.npz", vectors=VECTORS[:0], documents=texts[:0])
    assert import_from(tmp_path / "some.npz", tmp_path / "store").ok and open_source(tmp_path / "none.npz").count == 0
    with bqstore.open(tmp_path / "store") as col:
        assert {each.id: (each.text, each.metadata) for each in col.scroll()} == {
            **{f"all.npz:{i}": (str(text), {"pages": i}) for i, text in enumerate(texts)},
            **{f"some.npz:{i}": (str(texts[i]), {}) for i in range(2)},
        }


def test_blank_lines_beside_an_array_ended_the_import(tmp_path):
    np.save(tmp_path / "all.npy", VECTORS[:2])
    (tmp_path / "all.jsonl").write_text('\n{"id": "a"}\n  \n\n{"id": "b"}\n\n')
    assert import_from(tmp_path / "all.npy", tmp_path / "store").compared == 2


def test_blank_lines_count_as_lines_in_the_ids_that_are_made_of_them(tmp_path):
    (tmp_path / "all.jsonl").write_text('\n{"vector": [1, 0]}\n\n{"vector": [0, 1]}\n')
    assert import_from(tmp_path / "all.jsonl", tmp_path / "store").compared == 2
    with bqstore.open(tmp_path / "store") as col:
        assert list(col.ids()) == ["all.jsonl:1", "all.jsonl:3"]


def test_zero_vectors_are_imported_and_no_neighbors_of_theirs_compared(tmp_path):
    rows = [{**row, "vector": [0.0] * DIM} for row in ROWS]
    report = import_from(lines(tmp_path / "all.jsonl", rows), tmp_path / "store")
    assert (report.compared, report.ok, report.neighbors) == (N, True, None)
    dry = import_from(tmp_path / "all.jsonl", tmp_path / "another", dry_run=True)
    assert (dry.documents, dry.added) == (N, 0) and not (tmp_path / "another").exists()


def test_ids_of_bytes_and_metadata_as_json_in_an_npz(tmp_path):
    ids = np.array([b"\x01\xff", b"\x02\xfe"])
    np.savez(tmp_path / "all.npz", vectors=VECTORS[:2], uuid=ids, metadatas=np.array(['{"n": 1}', '{"n": null}']))
    assert import_from(tmp_path / "all.npz", tmp_path / "store").ok
    with bqstore.open(tmp_path / "store") as col:
        assert [(each.id, each.metadata) for each in col.scroll()] == [("01ff", {"n": 1}), ("02fe", {"n": None})]


@pytest.mark.parametrize(("ending", "library"), [("parquet", "pyarrow"), ("arrow", "pyarrow"), ("lance", "lancedb")])
def test_a_library_that_is_needed_is_named(tmp_path, monkeypatch, ending, library):
    monkeypatch.setitem(sys.modules, library, None)
    file = tmp_path / f"all.{ending}"
    file.mkdir() if ending == "lance" else file.write_bytes(b"PAR1")
    for source in (file, tmp_path) if ending == "lance" else (file,):
        with pytest.raises(bqstore.InvalidInputError, match=f"pip install {library}"):
            open_source(source)
    with bqstore.open() as col, pytest.raises(bqstore.InvalidInputError, match=r"pip install pyarrow|expected one of"):
        export(col, tmp_path / f"new.{ending}")
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_a_collection_without_originals_has_nothing_to_export(tmp_path):
    with bqstore.open(originals="none") as col, pytest.raises(bqstore.InvalidInputError, match="keeps no originals"):
        export(col, tmp_path / "all.npz")


def test_nodes_of_llama_index_without_their_docstore_have_no_text(tmp_path):
    nodes = [TextNode(id_=id_, text="lost", metadata={"n": 1}, embedding=[1.0, 0.0]) for id_ in "ab"]
    index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=2))
    index.storage_context.persist(str(tmp_path / "old"))
    (tmp_path / "old" / "docstore.json").unlink()
    (tmp_path / "old" / "default__vector_store.json").rename(tmp_path / "old" / "vector_store.json")  # older versions
    for source in (tmp_path / "old", tmp_path / "old" / "vector_store.json"):
        report = import_from(source, tmp_path / "store")
        assert report.ok and "2 of 2 nodes have no text" in report.notes[0]
    with bqstore.open(tmp_path / "store") as col:
        assert [(each.id, each.text, each.metadata["n"]) for each in col.scroll()] == [("a", None, 1), ("b", None, 1)]


def test_nodes_of_a_llama_index_before_0_7_came_without_metadata_and_source(tmp_path):
    """And an empty text was none, before texts had a record of their own."""
    old = {"text": "", "doc_id": "a", "doc_hash": "f", "extra_info": {"n": 1, "tags": ["x"]}}
    old |= {"embedding": None, "node_info": {"_node_type": "1"}, "relationships": {"1": "doc", "5": ["b"]}}
    (tmp_path / "docstore.json").write_text(json.dumps({"docstore/data": {"a": {"__data__": old, "__type__": "1"}}}))
    (tmp_path / "vector_store.json").write_text(json.dumps({"embedding_dict": {"a": [1, 0]}}))
    assert import_from(tmp_path, tmp_path / "store").ok
    (node,) = BQVectorStore(str(tmp_path / "store")).get_nodes(["a"])
    assert (node.text, node.metadata, node.ref_doc_id) == ("", {"n": 1, "tags": ["x"]}, "doc")
    assert [each.node_id for each in node.child_nodes] == ["b"]


def test_a_node_of_llama_index_that_is_no_object_has_its_vector_alone(tmp_path):
    (tmp_path / "docstore.json").write_text('{"docstore/data": {"a": {"__data__": "?"}, "b": 5}}')
    vectors = {"embedding_dict": {"a": [1, 0], "b": [0, 1]}, "metadata_dict": {"a": {"n": 1}}}
    (tmp_path / "default__vector_store.json").write_text(json.dumps(vectors))
    assert import_from(tmp_path, tmp_path / "store").ok
    with bqstore.open(tmp_path / "store") as col:
        assert [(each.id, each.text, each.metadata) for each in col.scroll()] == [
            ("a", None, {"n": 1}),
            ("b", None, {}),
        ]


@pytest.mark.parametrize("name", ["default__vector_store.json", "dump.json"])
@pytest.mark.parametrize("text", ["{", '["vector"]', '{"embedding_dict": [1], "vector": 1}', "[" * 10**5 + '"vector"'])
def test_a_json_store_that_is_damaged_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(bqstore.BqstoreError, match=name.replace(".", r"\.")):
        open_source(tmp_path if name.startswith("default") else tmp_path / name)


@pytest.mark.parametrize("originals", ["float16", "int8"])
def test_originals_of_fewer_bits_are_compared_within_their_precision(tmp_path, originals):
    report = import_from(lines(tmp_path / "all.jsonl", ROWS), tmp_path / "store", originals=originals)
    again = import_from(tmp_path / "all.jsonl", tmp_path / "store")
    assert (report.added, report.compared, again.added, again.unchanged) == (N, N, 0, N)


def test_a_document_that_changes_while_it_is_imported_is_told(tmp_path):
    file = lines(tmp_path / "all.jsonl", ROWS)

    def change(done):
        lines(file, [{**ROWS[0], "text": "another"}, *ROWS[1:]])

    report = import_from(file, tmp_path / "store", progress=change)
    assert (report.added, report.compared, report.differing, report.ok) == (N, N - 1, ("d0",), False)


def test_a_source_that_was_opened_is_imported_by_its_kind(tmp_path):
    source = open_source(lines(tmp_path / "all.ndjson", ROWS), kind="jsonl")
    assert import_from(source, tmp_path / "store").compared == N
