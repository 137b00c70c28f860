"""Folders that FAISS, Chroma, Qdrant's local mode, LanceDB and pyarrow write themselves.

These libraries are no part of ``make test``: ``pip install -e ".[test,peers]"`` brings them.
"""

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

import bqstore
from bqstore.importers import export, import_from
from tests.importers.given import DIM, IDS, METADATAS, TEXTS, VECTORS, N, imported

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other libraries
UUIDS = [f"00000000-0000-4000-8000-{i:012d}" for i in range(N)]


def needs(name):
    return pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[test,peers]"')


class Given(Embeddings):
    """The vectors of `VECTORS`, by the number that a text ends with."""

    def embed_documents(self, texts):
        return [VECTORS[int(text.split()[-1]) if text[-1].isdigit() else 0].tolist() for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def documents():
    return [Document(text, metadata=metadata) for text, metadata in zip(TEXTS, METADATAS, strict=True)]


@pytest.mark.parametrize(("strategy", "distance"), [(None, "euclid"), ("MAX_INNER_PRODUCT", "dot")])
def test_faiss_of_langchain(tmp_path, strategy, distance):
    faiss = needs("langchain_community.vectorstores.faiss")
    options = {} if strategy is None else {"distance_strategy": strategy}
    faiss.FAISS.from_documents(documents(), Given(), ids=IDS, **options).save_local(str(tmp_path / "old"))
    report = imported(tmp_path / "old", tmp_path / "store")
    assert (report.kind, report.distance) == ("faiss", distance)


@pytest.mark.parametrize("numbered", [False, True])
def test_an_index_of_faiss_that_is_not_flat(tmp_path, numbered):
    """An IndexIDMap, which cannot be asked for its vectors, ended the process."""
    faiss = needs("faiss")
    community = needs("langchain_community.vectorstores.faiss")
    index = faiss.IndexHNSWFlat(DIM, 16)
    docstore = community.InMemoryDocstore()
    store = community.FAISS(Given(), index, docstore, {})
    store.add_documents(documents(), ids=IDS)
    store.save_local(str(tmp_path / "old"), "named")
    if numbered:
        index = faiss.IndexIDMap(faiss.IndexFlatL2(DIM))
        index.add_with_ids(VECTORS, np.arange(N))
        faiss.write_index(index, str(tmp_path / "old" / "named.faiss"))
    imported(tmp_path / "old", tmp_path / "store")


@pytest.mark.parametrize("kind", ["IDMap", "IDMap2"])
def test_documents_got_the_vectors_of_others_from_an_index_that_numbers_them_itself(tmp_path, kind):
    faiss = needs("faiss")
    community = needs("langchain_community.vectorstores.faiss")
    store = community.FAISS.from_documents(documents(), Given(), ids=IDS)
    numbers = np.random.default_rng(2).permutation(1000)[:N] + 5
    store.index_to_docstore_id = dict(zip(numbers.tolist(), IDS, strict=True))
    store.index = faiss.index_factory(DIM, f"{kind},Flat")
    store.index.add_with_ids(VECTORS, numbers)
    store.save_local(str(tmp_path / "old"))
    imported(tmp_path / "old", tmp_path / "store")


@pytest.mark.parametrize("factory", ["IVF2,PQ4x4fs", "OPQ4_8,IVF2,PQ4x4", "PCA6,IDMap"])
def test_an_index_of_faiss_that_cannot_be_asked_as_others_are_ended_the_process(tmp_path, factory):
    faiss = needs("faiss")
    community = needs("langchain_community.vectorstores.faiss")
    community.FAISS.from_documents(documents(), Given(), ids=IDS).save_local(str(tmp_path / "old"))
    if factory.endswith("IDMap"):
        index = faiss.IndexPreTransform(faiss.PCAMatrix(DIM, 6), faiss.IndexIDMap(faiss.IndexFlatL2(6)))
    else:
        index = faiss.index_factory(DIM, factory)
    index.train(np.random.default_rng(1).standard_normal((300, DIM)).astype(np.float32))  # OPQ wants 256 or more
    index.add_with_ids(VECTORS, np.arange(N))
    faiss.write_index(index, str(tmp_path / "old" / "index.faiss"))
    if factory == "IVF2,PQ4x4fs":
        with pytest.raises(bqstore.CorruptionError, match="FastScan cannot be reconstructed"):
            import_from(tmp_path / "old", tmp_path / "store")
    elif factory.endswith("IDMap"):
        with pytest.raises(bqstore.CorruptionError, match=r"index\.faiss cannot be read: .*not implemented"):
            import_from(tmp_path / "old", tmp_path / "store")
    else:
        assert import_from(tmp_path / "old", tmp_path / "store").compared == N


@pytest.mark.parametrize(("space", "distance"), [("l2", "euclid"), ("ip", "dot"), ("cosine", "cosine")])
def test_chroma_of_langchain(tmp_path, space, distance):
    chroma = needs("langchain_chroma")
    for name in ("docs", "others"):
        given = {"collection_metadata": {"hnsw:space": space}, "persist_directory": str(tmp_path / "old")}
        chroma.Chroma(name, Given(), **given).add_documents(documents(), ids=IDS)
    with pytest.raises(bqstore.InvalidInputError, match="'docs', 'others'"):
        import_from(tmp_path / "old", tmp_path / "store")
    report = imported(tmp_path / "old", tmp_path / "store", from_collection="docs")
    assert (report.kind, report.distance) == ("chroma", distance)


def test_an_index_and_a_queue_of_chroma(tmp_path):
    """The index is written after a thousand documents; what is newer stays in the queue."""
    chromadb = needs("chromadb")
    vectors = np.random.default_rng(1).standard_normal((2300, DIM)).astype(np.float32)
    ids = [f"d{i}" for i in range(len(vectors))]
    old = chromadb.PersistentClient(str(tmp_path / "old")).create_collection("docs")
    for at in range(0, len(vectors), 100):
        some = slice(at, at + 100)
        old.add(ids=ids[some], embeddings=vectors[some], documents=ids[some], metadatas=[{"tags": ["a"]}] * 100)
    old.delete(ids=["d3", "d2290"])
    old.update(ids=["d4", "d2291"], embeddings=vectors[[8, 9]])
    old.upsert(ids=["d5"], embeddings=vectors[[10]], documents=["new"], metadatas=[{"n": 1}])
    theirs = old.get(include=["embeddings", "documents", "metadatas"])
    report = import_from(tmp_path / "old", tmp_path / "store")
    assert report.ok and report.compared == 2298 and report.neighbors == 1.0
    with bqstore.open(tmp_path / "store") as col:
        found = col.get(theirs["ids"], with_vectors=True)
    assert [(each.text, each.metadata) for each in found] == list(
        zip(theirs["documents"], theirs["metadatas"], strict=True)
    )
    np.testing.assert_array_equal([each.vector for each in found], np.float32(theirs["embeddings"]))


def test_the_index_of_chroma_under_cosine_has_unit_vectors_and_their_lengths(tmp_path):
    chromadb = needs("chromadb")
    vectors = np.random.default_rng(1).standard_normal((1200, DIM)).astype(np.float32)
    ids = [f"d{i}" for i in range(len(vectors))]
    client = chromadb.PersistentClient(str(tmp_path / "old"))
    client.create_collection("docs", metadata={"hnsw:space": "cosine"}).add(ids=ids, embeddings=vectors)
    assert list((tmp_path / "old").glob("*/length.bin"))
    report = import_from(tmp_path / "old", tmp_path / "store")
    assert report.ok and report.compared == 1200 and report.notes == ()
    with bqstore.open(tmp_path / "store") as col:
        found = col.get(ids, with_vectors=True)
    np.testing.assert_allclose([each.vector for each in found], vectors, 1e-6)


def test_qdrant_of_langchain(tmp_path):
    qdrant, client = needs("langchain_qdrant"), needs("qdrant_client")
    local = client.QdrantClient(path=str(tmp_path / "old"))
    space = client.models.VectorParams(size=DIM, distance=client.models.Distance.DOT)
    local.create_collection("docs", vectors_config=space)
    store = qdrant.QdrantVectorStore(local, "docs", Given(), distance=client.models.Distance.DOT)
    store.add_documents(documents(), ids=UUIDS)
    local.close()
    metadatas = [{**metadata} for metadata in METADATAS]
    report = imported(tmp_path / "old", tmp_path / "store", ids=UUIDS, metadatas=metadatas)
    assert (report.kind, report.distance) == ("qdrant", "dot")


def test_named_vectors_and_numbers_as_ids_of_qdrant(tmp_path):
    client = needs("qdrant_client")
    models = client.models
    local = client.QdrantClient(path=str(tmp_path / "old"))
    space = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    local.create_collection("docs", vectors_config={"a": space, "b": space})
    points = [models.PointStruct(id=i, vector={"a": VECTORS[i].tolist()}, payload=METADATAS[i]) for i in range(N)]
    local.upsert("docs", points)
    local.close()
    with pytest.raises(bqstore.InvalidInputError, match="'docs/a', 'docs/b'"):
        import_from(tmp_path / "old", tmp_path / "store")
    ids = [str(i) for i in range(N)]
    imported(tmp_path / "old", tmp_path / "store", ids=ids, texts=[None] * N, from_collection="docs/a")


def test_lancedb(tmp_path):
    lancedb = needs("lancedb")
    rows = [
        {"id": id_, "text": text, "metadata": metadata, "vector": vector}
        for id_, text, metadata, vector in zip(IDS, TEXTS, METADATAS, VECTORS, strict=True)
    ]
    lancedb.connect(str(tmp_path / "old")).create_table("docs", rows)
    assert imported(tmp_path / "old", tmp_path / "store").collection == "docs"


def test_the_distance_of_an_index_of_lancedb_was_taken_for_euclid(tmp_path):
    lancedb = needs("lancedb")
    vectors = np.random.default_rng(1).standard_normal((300, DIM)).astype(np.float32)
    table = lancedb.connect(str(tmp_path / "old")).create_table(
        "docs", [{"id": str(i), "vector": vector} for i, vector in enumerate(vectors)]
    )
    table.create_index(metric="cosine", num_partitions=2, num_sub_vectors=4)
    assert import_from(tmp_path / "old", tmp_path / "store").distance == "cosine"


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tables_there_and_back(tmp_path, ending):
    needs("pyarrow")
    with bqstore.open(tmp_path / "old") as col:
        col.add(VECTORS, IDS, TEXTS, METADATAS)
        assert export(col, tmp_path / f"all.{ending}") == N
    imported(tmp_path / f"all.{ending}", tmp_path / "store")


@pytest.mark.parametrize(
    ("library", "name"), [("pyarrow", "a.parquet"), ("pyarrow", "a.arrow"), ("lancedb", "a.lance")]
)
def test_a_damaged_table_is_named(tmp_path, library, name):
    needs(library)
    file = tmp_path / name
    file.mkdir() if library == "lancedb" else file.write_bytes(b"PAR1 and no more")
    with pytest.raises(bqstore.CorruptionError, match=rf"{name} cannot be read"):
        import_from(file, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_sqlite_vec(tmp_path):
    """Python's own SQLite may load no extension: apsw brings one that does."""
    apsw, sqlite_vec = needs("apsw"), needs("sqlite_vec")
    columns = (
        "tenant integer partition key, id text primary key, n integer, share float, open boolean, lang text, +text"
    )
    db = apsw.Connection(str(tmp_path / "old.db"))
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute(f"CREATE VIRTUAL TABLE docs USING vec0({columns} text, v float[{DIM}], chunk_size=8)")
    there = {}
    for i, (id_, each) in enumerate(zip(IDS, METADATAS, strict=True)):
        metadata = {**each, "tenant": i % 3, "lang": each["lang"] * (1 + i)}  # more than 12 bytes are kept elsewhere
        names, row = ", ".join(metadata), (*metadata.values(), id_, TEXTS[i], VECTORS[i].tobytes())
        db.execute(f"INSERT INTO docs ({names}, id, text, v) VALUES ({', '.join('?' * len(row))})", row)
        there[id_] = (TEXTS[i], metadata, VECTORS[i].tolist())
    db.execute("DELETE FROM docs WHERE id IN ('d3', 'd9', 'd39')")
    db.close()
    for id_ in ("d3", "d9", "d39"):
        del there[id_]
    report = import_from(tmp_path / "old.db", tmp_path / "store")
    assert report.ok and report.neighbors == 1.0 and report.compared == len(there)
    with bqstore.open(tmp_path / "store") as col:
        assert {
            each.id: (each.text, each.metadata, each.vector.tolist()) for each in col.scroll(with_vectors=True)
        } == there
