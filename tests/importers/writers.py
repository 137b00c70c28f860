"""Folders of other libraries, written by whichever version is installed, and what that version itself reads of them.

    python writers.py KIND FOLDER        KIND is a key of WRITERS

``release_check.py`` runs this in an environment of each version, without bqstore; ``reading.py`` compares. Beside the
folders lies ``cases.json``: of each case where it is, its collection and distance, and the id, text, metadata and
vector of each document as the library returns them.
"""

import contextlib
import datetime
import importlib.metadata
import inspect
import json
import random
import re
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

N, DIM = 300, 12
STRANGE = [
    " ",
    "a b",
    "a/b",
    "../up",
    "'; DROP TABLE docs; --",
    "01",
    "-1",
    "ü",
    "日本",
    "\U0001f4a5",
    "x" * 300,
    '"q"',
    "%",
]
Rows = dict[str, list[Any]]  # id -> text, metadata, vector
Cases = list[dict[str, Any]]


def vector(seed: int) -> list[float]:
    """Numbers that float32 has exactly, so that no library rounds them."""
    made = random.Random(seed)
    return [struct.unpack("<f", struct.pack("<f", made.gauss(0, 1)))[0] for _ in range(DIM)]


def ids(n: int = N) -> list[str]:
    """Ids, some of odd shapes."""
    return [STRANGE[i] if i < len(STRANGE) else f"d{i}" for i in range(n)]


def text(i: int) -> str:
    """A text: some empty, long, of other scripts."""
    return (
        ["", "Grüße, 世界 \U0001f30d", "two\nlines\tand 'quotes' \"both\" \\", "long " * 3000][i]
        if i < 4
        else f"text {i}"
    )


def flat(i: int) -> dict[str, Any]:
    """Metadata of simple values; never empty."""
    made: dict[str, Any] = {"n": i, "lang": "de" if i % 3 else "en", "open": i % 2 == 0, "share": i / 8, "é ü.x": "ß"}
    made |= {"big": 1 << 50, "minus": -i, "real": float(i), "blank": ""} if i % 4 == 0 else {}
    return made


def deep(i: int) -> dict[str, Any]:
    """Metadata of all that JSON has."""
    return {**flat(i), "none": None, "tags": ["a", "ü", i], "in": {"of": [{"n": i, "none": None}], "": {}}, "e": []}


def case(where: Path, rows: Rows, distance: str, collection: "str | None" = None, **more: Any) -> dict[str, Any]:
    """A folder and what is in it."""
    return {"path": str(where), "collection": collection, "distance": distance, "rows": rows, **more}


def _version(package: str) -> "tuple[int, ...]":
    return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version(package))[:3])


# ---- Chroma


def chroma(folder: Path) -> Iterator[dict[str, Any]]:
    """Collections whose index has all, some or none of the documents; changed, deleted, without metadata."""
    import chromadb
    from chromadb.config import Settings

    where, old = folder / "chroma", _version("chromadb") < (0, 4, 15)  # without truth values

    def flat_(i: int) -> dict[str, Any]:
        return {key: value for key, value in flat(i).items() if not (old and isinstance(value, bool))}

    client = chromadb.PersistentClient(str(where), Settings(anonymized_telemetry=False, allow_reset=True))

    def add(col: Any, start: int, end: int, step: int = 100) -> None:
        for at in range(start, end, step):
            some = range(at, min(at + step, end))
            col.add(
                ids=[(ids() + [f"d{i}" for i in range(N, end)])[i] for i in some],
                embeddings=[vector(i) for i in some],
                documents=[text(i) for i in some],
                metadatas=[flat_(i) for i in some],
            )

    def change(col: Any, at: int) -> None:
        col.delete(ids=[f"d{at}", f"d{at + 1}", "a b"])
        col.update(ids=[f"d{at + 2}"], embeddings=[vector(at + 7000)])
        col.update(ids=[f"d{at + 3}"], metadatas=[{"n": 5, "new": "yes", "open": 0 if old else False}])
        col.update(ids=[f"d{at + 4}"], embeddings=[vector(at + 7002)], documents=["changed"])
        col.upsert(
            ids=[f"d{at + 5}", "made"],
            embeddings=[vector(at + 7003), vector(7004)],
            documents=["upserted", "made"],
            metadatas=[{"u": 1}, {"u": 2.5}],
        )
        col.add(
            ids=[f"d{at}"], embeddings=[vector(at + 7005)], documents=["back"], metadatas=[{"back": 1 if old else True}]
        )
        if _version("chromadb") >= (0, 5):  # those before it cannot read their own folder after an add of what is there
            col.add(ids=["d60"], embeddings=[vector(9999)], documents=["never"], metadatas=[{"never": 1}])

    def of(col: Any, distance: str, **more: Any) -> dict[str, Any]:
        found = col.get(include=["documents", "metadatas"])
        if _version("chromadb") < (0, 5, 3):  # all at once come without some, or in another order
            one_by_one = [col.get(ids=[id_], include=["embeddings"])["embeddings"] for id_ in found["ids"] or []]
            vectors = [got[0] if got else None for got in one_by_one]
        else:
            vectors = col.get(include=["embeddings"])["embeddings"]
        each = zip(found["ids"] or [], found["documents"] or [], found["metadatas"] or [], vectors, strict=False)
        rows = {
            id_: [doc, meta or {}, None if vec is None else [float(v) for v in vec]] for id_, doc, meta, vec in each
        }
        assert len(rows) == col.count(), (len(rows), col.count())
        # under cosine the index has unit vectors and their lengths: what comes of both is rounded
        return case(where, rows, distance, col.name, near=1e-6 if distance == "cosine" else 0, **more)

    def made(name: str, **metadata: Any) -> Any:
        return client.create_collection(name, metadata=metadata or None)

    cols = []
    for space, distance in (("l2", "euclid"), ("ip", "dot"), ("cosine", "cosine")):
        col = made("docs-" + space, **{"hnsw:space": space})
        add(col, 0, N)
        change(col, 100)
        cols.append((col, distance))
    col = made("indexed")
    add(col, 0, 2300)
    change(col, 100)
    change(col, 2250)
    cols.append((col, "euclid"))
    col = made("indexed-cosine", **{"hnsw:space": "cosine"})
    add(col, 0, 1500, 500)
    change(col, 100)
    cols.append((col, "cosine"))
    col = made("often", **{"hnsw:batch_size": 10, "hnsw:sync_threshold": 20})
    add(col, 0, 105, 7)
    change(col, 70)
    cols.append((col, "euclid"))
    col = made("bare")
    col.add(ids=["a", "b"], embeddings=[vector(1), vector(2)])
    col.add(ids=["c"], embeddings=[vector(3)], documents=["only a text"])
    col.add(ids=["d"], embeddings=[vector(4)], metadatas=[{"only": "metadata"}])
    cols.append((col, "euclid"))
    col = made("emptied")
    add(col, 0, 1200)
    col.delete(ids=(ids() + [f"d{i}" for i in range(N, 1200)])[:1190])
    cols.append((col, "euclid"))
    gone = made("gone")
    add(gone, 0, 50)
    client.delete_collection("gone")
    col = made("none")
    cols.append((col, "euclid"))
    col = made("renamed-before")
    add(col, 0, 20)
    col.modify(name="renamed")
    cols.append((client.get_collection("renamed"), "euclid"))
    for col, distance in cols:
        try:
            yield of(col, distance)
        except (AssertionError, IndexError, TypeError) as error:  # the first versions cannot read all that they write
            print("not read by chromadb itself:", col.name, repr(error))


# ---- Qdrant


def qdrant(folder: Path) -> Iterator[dict[str, Any]]:
    """Points with numbers and UUIDs as ids, changed in all ways; named vectors."""
    from qdrant_client import QdrantClient, models

    where = folder / "qdrant"
    client = QdrantClient(path=str(where))
    uuids = [f"00000000-0000-4000-8000-{i:012d}" for i in range(N)]
    numbers = [*range(N - 3), 2**40, 2**53 + 1, 2**63]

    def space(distance: str, size: int = DIM) -> Any:
        return models.VectorParams(size=size, distance=getattr(models.Distance, distance.upper()))

    def payload(i: int, kind: str) -> "dict[str, Any] | None":
        if kind == "langchain":
            return {"page_content": text(i), "metadata": deep(i)}
        return None if i == 9 else {"document": text(i), **deep(i)} if kind == "plain" else {**deep(i), "text": text(i)}

    def rows_of(name: str, key: str = "") -> Rows:
        found, _ = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
        rows: Rows = {}
        for point in found:
            got = dict(point.payload or {})
            doc = next((got.pop(k) for k in ("page_content", "text", "document") if k in got), None)
            if isinstance(got.get("metadata"), dict):
                got = got["metadata"]
            vec = point.vector.get(key) if isinstance(point.vector, dict) else point.vector
            if vec is not None:
                rows[str(point.id)] = [doc, got, list(vec)]
        return rows

    for name, distance, keys, kind in (
        ("euclid", "Euclid", numbers, "plain"),
        ("dot", "Dot", uuids, "langchain"),
        ("cosine", "Cosine", numbers, "llama"),
        ("ünï code", "Euclid", uuids, "plain"),
    ):
        client.recreate_collection(name, vectors_config=space(distance))
        for at in range(0, N, 64):
            some = range(at, min(at + 64, N))
            client.upsert(
                name, [models.PointStruct(id=keys[i], vector=vector(i), payload=payload(i, kind)) for i in some]
            )
        client.delete(name, models.PointIdsList(points=[keys[20], keys[21]]))
        client.upsert(name, [models.PointStruct(id=keys[22], vector=vector(7000), payload={"document": "changed"})])
        client.upsert(name, [models.PointStruct(id=keys[20], vector=vector(7001), payload={"document": "back"})])
        if kind == "plain":
            client.set_payload(name, {"set": [1, 2]}, [keys[23]])
            client.overwrite_payload(name, {"over": {"written": None}}, [keys[24]])
            client.delete_payload(name, ["n", "tags"], [keys[25]])
            client.clear_payload(name, models.PointIdsList(points=[keys[26]]))
        if hasattr(client, "update_vectors"):
            client.update_vectors(name, [models.PointVectors(id=keys[27], vector=vector(7002))])
    client.recreate_collection("named", vectors_config={"a": space("Dot"), "b b": space("Euclid", 3)})
    for i in range(N):
        vectors = {"a": vector(i), "b b": vector(i)[:3]}
        if i % 3 and _version("qdrant-client") >= (1, 2):  # the first versions want all of them
            del vectors["b b"]
        client.upsert("named", [models.PointStruct(id=i, vector=vectors, payload=payload(i, "plain"))])
    client.recreate_collection("gone", vectors_config=space("Dot"))
    client.upsert("gone", [models.PointStruct(id=1, vector=vector(1))])
    client.delete_collection("gone")
    for name, distance in (("euclid", "euclid"), ("dot", "dot"), ("cosine", "cosine"), ("ünï code", "euclid")):
        # under cosine the library returns unit vectors, and keeps in its folder what it was given, which we read
        yield case(where, rows_of(name), distance, name, unit=distance == "cosine")
    yield case(where, rows_of("named", "a"), "dot", "named/a")
    yield case(where, rows_of("named", "b b"), "euclid", "named/b b")
    if hasattr(client, "close"):
        client.close()


# ---- LanceDB


def lancedb(folder: Path) -> Iterator[dict[str, Any]]:
    """Tables with deletions, changes, many versions, other types of columns and of vectors."""
    import lancedb
    import pyarrow as pa

    where = folder / "lance"
    db = lancedb.connect(str(where))
    day = datetime.datetime(2024, 5, 17, 12, 30, 15, 250_000)

    def rows_of(table: Any, key: str = "id", doc: str = "text", vec: str = "vector") -> Rows:
        rows: Rows = {}
        for row in table.to_arrow().to_pylist():
            nested = row.pop("metadata", None)
            id_, got, vectors = str(row.pop(key)), row.pop(doc, None), list(row.pop(vec))
            rows[id_] = [got, {**dropped(row), **dropped(nested or {})}, vectors]
        assert len(rows) == table.count_rows()
        return rows

    def dropped(given: dict[str, Any]) -> dict[str, Any]:  # a table has a null where a document lacks what others have
        return {key: value for key, value in given.items() if value is not None}

    def row(i: int, id_: Any) -> dict[str, Any]:
        return {
            "id": id_,
            "text": text(i),
            "vector": vector(i),
            "metadata": {**flat(4 * i), "at": day, "tags": ["ü", "b"]},
        }

    table = db.create_table("docs", [row(i, id_) for i, id_ in enumerate(ids())])
    for at in range(N, N + 200, 20):
        table.add([row(i, f"d{i}") for i in range(at, at + 20)])
    table.delete("id IN ('d20', 'd21', 'd310', 'a b')")
    table.update(where="id = 'd22'", values={"text": "changed", "vector": vector(7000)})
    table.add([row(20, "d20")])
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    merge.execute([row(7001, "d23"), row(7002, "merged")])
    yield case(where, rows_of(table), "euclid", "docs")
    table.create_scalar_index("id")
    yield case(where, rows_of(table), "euclid", "docs")

    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("vector", pa.list_(pa.float16(), DIM)),
            ("content", pa.large_string()),
            ("day", pa.date32()),
            ("at", pa.timestamp("us")),
            ("small", pa.int8()),
            ("real", pa.float32()),
            ("flag", pa.bool_()),
            ("tags", pa.list_(pa.string())),
        ]
    )
    typed = db.create_table("typed", schema=schema)
    typed.add(
        pa.table(
            {
                "id": list(range(N)),
                "vector": pa.array(
                    [[float(round(v)) for v in vector(i)] for i in range(N)], pa.list_(pa.float32(), DIM)
                ).cast(pa.list_(pa.float16(), DIM)),
                "content": pa.array([text(i) for i in range(N)], pa.large_string()),
                "day": [day.date() if i % 2 else None for i in range(N)],
                "at": pa.array([day] * N, pa.timestamp("us")),
                "small": pa.array([i % 100 for i in range(N)], pa.int8()),
                "real": pa.array([i / 8 for i in range(N)], pa.float32()),
                "flag": [None if i % 5 == 0 else i % 2 == 0 for i in range(N)],
                "tags": [["a", None] if i % 2 else [] for i in range(N)],
            },
            schema=schema,
        )
    )
    yield case(where, rows_of(typed, doc="content"), "euclid", "typed")

    many = db.create_table("many", [row(i, f"d{i}") for i in range(3000)])
    many.delete("text = 'text 7' OR id > 'd2'")
    yield case(where, rows_of(many), "euclid", "many")
    many.optimize() if hasattr(many, "optimize") else None
    yield case(where, rows_of(many), "euclid", "many")
    indexed = db.create_table("indexed", [row(i, f"d{i}") for i in range(1000)])
    indexed.create_index(metric="cosine", num_partitions=2, num_sub_vectors=4)
    indexed.add([row(i, f"d{i}") for i in range(1000, 1100)])
    indexed.delete("id = 'd3'")
    yield case(where, rows_of(indexed), "cosine", "indexed")
    for form in ("legacy", "stable"):
        try:
            old = db.create_table(form, [row(i, f"d{i}") for i in range(100)], data_storage_version=form)
        except Exception as error:  # not in this version
            print(form, error)
            continue
        old.delete("id = 'd3'")
        yield case(where, rows_of(old), "euclid", form)
    db.create_table("gone", [row(1, "a")])
    db.drop_table("gone")


# ---- FAISS of LangChain


def _faiss() -> Any:
    for name in ("langchain_community.vectorstores.faiss", "langchain.vectorstores.faiss", "langchain.vectorstores"):
        try:
            return __import__(name, fromlist=["FAISS"]).FAISS
        except ImportError:
            continue
    raise ImportError("no FAISS of LangChain")


def faiss(folder: Path) -> Iterator[dict[str, Any]]:
    """What LangChain makes, with added and deleted texts, and indexes of all kinds in its place."""
    import faiss
    import numpy as np

    FAISS = _faiss()
    try:
        from langchain_core.embeddings import Embeddings
    except ImportError:
        from langchain.embeddings.base import Embeddings

    known = {text(i): vector(i) for i in range(2000)}

    class Given(Embeddings):  # type: ignore[misc]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [known[each] for each in texts]

        def embed_query(self, text: str) -> list[float]:
            return known[text]

    def saved(store: Any, name: str, index: str = "index") -> dict[str, Any]:
        index = index if "index_name" in inspect.signature(store.save_local).parameters else "index"
        store.save_local(str(folder / name), *([index] if index != "index" else []))
        inner = faiss.read_index(str(folder / name / f"{index}.faiss"))
        distance = "euclid" if inner.metric_type == faiss.METRIC_L2 else "dot"
        whole = inner
        if hasattr(inner, "make_direct_map"):
            inner.make_direct_map()
        try:
            inner.reconstruct(0)  # where there are no vectors to be had, asking for many ends the process
            vectors = inner.reconstruct_n(0, inner.ntotal)
        except RuntimeError:
            vectors = None
        near = 0 if isinstance(faiss.downcast_index(inner), faiss.IndexFlat) else 1e-6
        rows = {}
        for place, id_ in store.index_to_docstore_id.items():
            document = store.docstore.search(id_)
            assert not isinstance(document, str), document
            rows[id_] = [document.page_content, document.metadata, None if vectors is None else vectors[place].tolist()]
        del whole
        return case(folder / name, rows, distance, None if index == "index" else index, near=near)

    def metadata(i: int) -> dict[str, Any]:
        return {**deep(i), "at": datetime.datetime(2024, 1, 1, 5), "day": datetime.date(2020, 2, 29), "pair": (1, "b")}

    def build(n: int = N) -> Any:
        return FAISS.from_texts([text(i) for i in range(n)], Given(), [metadata(i) for i in range(n)])

    store = build()
    store.add_texts([text(i) for i in range(N, N + 50)], [metadata(i) for i in range(N, N + 50)])
    if hasattr(store, "delete"):
        with contextlib.suppress(NotImplementedError):
            store.delete([store.index_to_docstore_id[i] for i in (0, 5, 320)])
    yield saved(store, "faiss")
    plain = FAISS.from_texts([text(i) for i in range(30)], Given())
    yield saved(plain, "faiss-bare", "other")
    if hasattr(store, "merge_from"):
        more = FAISS.from_texts([text(i) for i in range(400, 500)], Given(), [metadata(i) for i in range(100)])
        store.merge_from(more)
        yield saved(store, "faiss-merged")
    try:
        loaded = FAISS.load_local(str(folder / "faiss"), Given())
    except ValueError:
        loaded = FAISS.load_local(str(folder / "faiss"), Given(), allow_dangerous_deserialization=True)
    loaded.add_texts([text(i) for i in range(600, 620)])
    yield saved(loaded, "faiss-again")
    try:
        strategy = __import__("langchain_community.vectorstores.utils", fromlist=["x"]).DistanceStrategy
    except ImportError:
        strategy = None
    if strategy is not None:
        for name, how, unit in (("ip", "MAX_INNER_PRODUCT", False), ("unit", "EUCLIDEAN_DISTANCE", True)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                one = FAISS.from_texts(
                    [text(i) for i in range(N)],
                    Given(),
                    [metadata(i) for i in range(N)],
                    ids=ids(),
                    distance_strategy=strategy[how],
                    normalize_L2=unit,
                )
            yield saved(one, f"faiss-{name}")
    training = np.array([vector(i) for i in range(N)], np.float32)
    for factory in (
        *(
            "HNSW8",
            "HNSW8_SQ8",
            "IVF4,Flat",
            "IVF4,PQ4x4",
            "PQ4x4",
            "SQ8",
            "SQfp16",
            "IVF4,SQ8",
            "PCA6,Flat",
            "NSG8,Flat",
        ),
        *(
            "IVF4_HNSW8,Flat",
            "OPQ4_8,IVF4,PQ4x4",
            "Flat,RFlat",
            "PQ4x4,RFlat",
            "IDMap,Flat",
            "IDMap2,Flat",
            "L2norm,Flat",
        ),
        *("PQ4x4fs", "LSH", "HNSW8,Flat", "RQ2x4", "IVF4,PQ4x4,RFlat"),
    ):
        for metric in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
            name = f"faiss-{factory}-{metric}".replace(",", "+")
            print("making", name, flush=True)
            try:
                index = faiss.index_factory(DIM, factory, metric)
                index.train(training)
                index.add_with_ids(training, np.arange(N)) if factory.startswith("IDMap") else index.add(training)
                other = build()
                other.index = index
                yield saved(other, name)
            except Exception as error:
                print("not made:", name, str(error).splitlines()[-1])


# ---- sqlite-vec


def sqlite_vec(folder: Path) -> Iterator[dict[str, Any]]:
    """Tables with deletions and changes over several chunks, and whatever columns this version has.

    Python's own SQLite may load no extension: apsw brings one that does.
    """
    import apsw
    import sqlite_vec

    where, version = folder / "vec.db", _version("sqlite-vec")
    db = apsw.Connection(str(where))
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute("BEGIN")

    def raw(i: int) -> bytes:
        return struct.pack(f"<{DIM}f", *vector(i))

    def read(name: str, key: str, vec: str, extra: "list[str]", code: str = "f") -> Rows:
        columns = ", ".join([key, vec, *extra])
        rows: Rows = {}
        for id_, blob, *values in db.execute(f"SELECT {columns} FROM {name}"):
            got = dict(zip(extra, values, strict=False))
            vec_ = [float(v) for v in struct.unpack(f"<{len(blob) // struct.calcsize(code)}{code}", blob)]
            rows[str(id_)] = [got.pop("text", None), {k: v for k, v in got.items() if v is not None}, vec_]
        return rows

    def changed(name: str, key: str, vec: str, keys: "list[Any]") -> None:
        for at in (3, 7, 1050):
            try:
                db.execute(f"DELETE FROM {name} WHERE {key} = ?", (keys[at],))
            except apsw.Error as error:  # 0.1.0 with keys that are texts
                print(name, error)
        try:
            db.execute(f"UPDATE {name} SET {vec} = ? WHERE {key} = ?", (raw(7000), keys[8]))
        except apsw.Error as error:
            print(name, error)

    db.execute(f"CREATE VIRTUAL TABLE vec_docs USING vec0(embedding float[{DIM}])")
    db.execute("CREATE TABLE docs (text TEXT, metadata TEXT, n INTEGER)")
    for i in range(2500):
        db.execute("INSERT INTO docs VALUES (?, ?, ?)", (text(i), json.dumps(deep(i)), i))
        db.execute("INSERT INTO vec_docs(rowid, embedding) VALUES (?, ?)", (i + 1, raw(i)))
    changed("vec_docs", "rowid", "embedding", list(range(1, 2501)))
    rows = read("vec_docs", "rowid", "embedding", [])
    for id_, row in rows.items():
        got = db.execute("SELECT text, metadata, n FROM docs WHERE rowid = ?", (int(id_),)).fetchone()
        row[0], row[1] = got[0], {"n": got[2], **json.loads(got[1])}
    cases = [case(where, rows, "euclid", "vec_docs")]
    db.execute(
        f"create virtual table keyed using vec0(id text primary key, v float[{DIM}] distance_metric=cosine)"
        if version >= (0, 1, 2)
        else f"create virtual table keyed using vec0(id text primary key, v float[{DIM}])"
    )
    keys = ids() + [f"d{i}" for i in range(N, 1200)]
    for i, key in enumerate(keys):
        db.execute("INSERT INTO keyed(id, v) VALUES (?, ?)", (key, raw(i)))
    changed("keyed", "id", "v", keys)
    metric = "cosine" if version >= (0, 1, 2) else "euclid"
    cases.append(case(where, read("keyed", "id", "v", []), metric, "keyed"))
    db.execute("CREATE VIRTUAL TABLE small USING vec0(v int8[4])")
    for i in range(20):
        db.execute(
            "INSERT INTO small(rowid, v) VALUES (?, vec_int8(?))", (1000 - i * 7, struct.pack("<4b", i, -i, 1, 127))
        )
    cases.append(case(where, read("small", "rowid", "v", [], "b"), "euclid", "small"))
    db.execute(f"CREATE VIRTUAL TABLE two USING vec0(a float[{DIM}], b float[{DIM}])")
    for i in range(50):
        db.execute("INSERT INTO two(rowid, a, b) VALUES (?, ?, ?)", (i, raw(i), raw(i + 100)))
    cases.append(case(where, read("two", "rowid", "b", []), "euclid", "two/b"))
    if version >= (0, 1, 6):
        db.execute(
            "CREATE VIRTUAL TABLE full USING vec0(tenant integer partition key, lang text partition key, id text "
            "primary key, n integer, share float, open boolean, title text, +text text, +more integer, "
            f"v float[{DIM}], chunk_size=64)"
        )
        for i in range(N):
            row = (
                i % 3,
                "déü"[i % 3],
                keys[i],
                -i,
                i / 8,
                i % 2,
                "ü" * (i % 20),
                text(i),
                None if i % 2 else i,
                raw(i),
            )
            db.execute(
                "INSERT INTO full(tenant, lang, id, n, share, open, title, text, more, v) VALUES (?,?,?,?,?,?,?,?,?,?)",
                row,
            )
        db.execute("DELETE FROM full WHERE id IN ('d20', 'd21')")
        db.execute(
            "UPDATE full SET title = 'a title that is longer than twelve bytes', n = 7, open = 0 WHERE id = 'd22'"
        )
        db.execute("UPDATE full SET title = 'short' WHERE id = 'd19'")
        extra = ["tenant", "lang", "n", "share", "open", "title", "text", "more"]
        rows = read("full", "id", "v", extra)
        for row in rows.values():
            row[1]["open"] = bool(row[1]["open"])
        cases.append(case(where, rows, "euclid", "full"))
        if version >= (0, 1, 7):
            db.execute("DELETE FROM vec_docs WHERE rowid < 1100")
    db.execute("COMMIT")
    db.close()
    if version >= (0, 1, 7):
        cases[0]["rows"] = {key: row for key, row in cases[0]["rows"].items() if int(key) >= 1100}
    yield from cases


# ---- LlamaIndex


def llama_index(folder: Path) -> Iterator[dict[str, Any]]:
    """Nodes with relationships, several namespaces, deleted documents."""
    try:
        base: Any = __import__("llama_index.core", fromlist=["x"])
        schema: Any = __import__("llama_index.core.schema", fromlist=["x"])
    except ImportError:
        base = __import__("llama_index", fromlist=["x"])
        schema = __import__("llama_index.schema", fromlist=["x"])
        if not hasattr(schema, "TextNode"):
            old: Any = __import__("llama_index.data_structs.node", fromlist=["x"])

    def nodes(start: int, end: int) -> list[Any]:
        made = []
        for i in range(start, end):
            if not hasattr(schema, "TextNode"):  # before 0.7
                key = (ids() + [f"d{k}" for k in range(N, end)])[i]
                source = {old.DocumentRelationship.SOURCE: f"doc{i // 10}"}
                made.append(old.Node(text=text(i), doc_id=key, extra_info=flat(i), relationships=source))
                continue
            source = {schema.NodeRelationship.SOURCE: schema.RelatedNodeInfo(node_id=f"doc{i // 10}")}
            node = schema.TextNode(
                id_=(ids() + [f"d{k}" for k in range(N, end)])[i], text=text(i), metadata=deep(i), relationships=source
            )
            if i % 2:
                node.excluded_embed_metadata_keys = ["n"]
                node.start_char_idx, node.end_char_idx = i, i + 5
            made.append(node)
        return made

    def adding(store: Any, some: list[Any], start: int) -> None:
        for i, node in enumerate(some, start):
            node.embedding = vector(i)
        try:
            store.add(some)
        except (AttributeError, ValueError):
            types = __import__("llama_index.vector_stores.types", fromlist=["x"])
            results = getattr(types, "NodeWithEmbedding", None) or types.NodeEmbeddingResult
            store.add([results(node, vector(i)) for i, node in enumerate(some, start)])

    def rows_of(store: Any, docstore: Any) -> Rows:
        data = store._data if hasattr(store, "_data") else store.data
        rows: Rows = {}
        for id_, vec in data.embedding_dict.items():
            node = docstore.get_node(id_)
            rows[id_] = [
                node.text,
                node.metadata if hasattr(node, "metadata") else node.extra_info,
                [float(v) for v in vec],
            ]
        return rows

    with contextlib.suppress(AttributeError):  # the usual tokenizer is loaded from the network
        base.set_global_tokenizer(str.split)
    for name, changed in (("llama", False), ("llama-changed", True)):
        context = base.StorageContext.from_defaults()
        store = context.vector_store if hasattr(context, "vector_store") else context.vector_stores["default"]
        some = nodes(0, N)
        adding(store, some, 0)
        for node in some:
            node.embedding = None
        context.docstore.add_documents(some)
        if changed:
            store.delete("doc3")
            for i in range(30, 40):
                context.docstore.delete_document(f"d{i}")
            again = nodes(50, 52)
            again[0].text = "changed" if hasattr(again[0], "text") else None
            adding(store, again, 7000)
            for node in again:
                node.embedding = None
            context.docstore.add_documents(again, allow_update=True)
        context.persist(str(folder / name))
        yield case(folder / name, rows_of(store, context.docstore), "cosine")


# ---- LangChain's InMemoryVectorStore


def langchain_memory(folder: Path) -> Iterator[dict[str, Any]]:
    """A dump, with deleted and replaced documents."""
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings

    try:
        from langchain_core.vectorstores import InMemoryVectorStore
    except ImportError:
        from langchain_core.vectorstores.in_memory import InMemoryVectorStore

    class Given(Embeddings):  # type: ignore[misc]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [next(vector(i) for i in range(N) if text(i) == each) for each in texts]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    store = InMemoryVectorStore(Given())
    given = [Document(page_content=text(i), metadata=deep(i), id=id_) for i, id_ in enumerate(ids())]
    store.add_documents(given, ids=ids())
    store.delete(["d20", "d21"])
    store.add_documents([Document(page_content=text(40), metadata={"n": None})], ids=["d22"])
    store.dump(str(folder / "memory.json"))
    rows = {id_: [each["text"], each["metadata"], each["vector"]] for id_, each in store.store.items()}
    yield case(folder / "memory.json", rows, "cosine")


WRITERS = {
    "chroma": chroma,
    "faiss": faiss,
    "lancedb": lancedb,
    "langchain-memory": langchain_memory,
    "llama-index": llama_index,
    "qdrant": qdrant,
    "sqlite-vec": sqlite_vec,
}


def main() -> None:
    """Write the folders of a kind, and what is in them."""
    kind, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cases = list(WRITERS[kind](folder))
    told = json.dumps(cases, default=lambda each: each.isoformat() if hasattr(each, "isoformat") else str(each))
    (folder / "cases.json").write_text(told, "utf-8")
    print(f"{len(cases)} cases, {sum(len(each['rows']) for each in cases):,} documents")


if __name__ == "__main__":
    main()
