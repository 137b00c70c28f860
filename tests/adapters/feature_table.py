"""Writes the table of docs/langchain-features.md: each call, tried on each store, in one run.

    pip install -e ".[langchain,peers]" && python tests/adapters/feature_table.py > docs/langchain-features.md

A cell says "yes" if the call does what it should on four documents, "no" if the store has no such call or keyword, and
"wrong" if it answers otherwise. No test runs this: it needs the other stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

FILMS = {
    "a": ("1 0 0", {"year": 1954, "genre": "drama"}),
    "b": ("0.9 0.1 0", {"year": 1950, "genre": "drama"}),
    "c": ("0 1 0", {"year": 1979, "genre": "horror"}),
    "d": ("0 0.9 0.1", {"year": 1982, "genre": "horror", "tags": ["ice"]}),
}
IDS = [f"00000000-0000-0000-0000-00000000000{i}" for i in range(1, 5)]  # UUIDs, which Qdrant asks for
BY_LETTER = dict(zip(FILMS, IDS, strict=True))


class Spelled(Embeddings):
    """Texts that are their own vectors."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        numbers = [text if text[0] in "-0123456789" else "1 0 0" for text in texts]  # Qdrant tries a text of its own
        return [[float(part) for part in text.split()] for text in numbers]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def documents() -> list[Document]:
    return [Document(text, id=BY_LETTER[i], metadata=dict(film)) for i, (text, film) in FILMS.items()]


def letters(found: Any) -> str:
    by_text = {text: letter for letter, (text, _) in FILMS.items()}
    return "".join(by_text.get((f[0] if isinstance(f, tuple) else f).page_content, "?") for f in found)


PACKAGES = (
    *("langchain-core", "langchain-chroma", "chromadb", "langchain-qdrant", "qdrant-client", "langchain-community"),
    *("faiss-cpu", "lancedb"),
)


# ---- the stores, each on a folder where it can be


def bqstore_on(folder: Path) -> Any:
    from langchain_bqstore import BQVectorStore

    return BQVectorStore(Spelled(), path=folder)


def chroma_on(folder: Path) -> Any:
    from langchain_chroma import Chroma

    return Chroma("films", Spelled(), persist_directory=str(folder))


def qdrant_on(folder: Path) -> Any:
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    if not client.collection_exists("films"):
        client.create_collection("films", vectors_config=models.VectorParams(size=3, distance=models.Distance.COSINE))
    return QdrantVectorStore(client, "films", Spelled())


def faiss_on(folder: Path) -> Any:
    import faiss
    from langchain_community.docstore import InMemoryDocstore
    from langchain_community.vectorstores import FAISS

    return FAISS(Spelled(), faiss.IndexFlatL2(3), InMemoryDocstore(), {}, normalize_L2=True)


def memory_on(folder: Path) -> Any:
    from langchain_core.vectorstores import InMemoryVectorStore

    return InMemoryVectorStore(Spelled())


def lancedb_on(folder: Path) -> Any:
    import lancedb
    from langchain_community.vectorstores import LanceDB

    has = folder.exists() and "films" in lancedb.connect(str(folder)).table_names()
    table = lancedb.connect(str(folder)).open_table("films") if has else None
    return LanceDB(
        uri=str(folder), embedding=Spelled(), table_name="films", table=table, mode="append", distance="cosine"
    )


STORES: dict[str, Callable[[Path], Any]] = {
    "bqstore": bqstore_on,
    "langchain-chroma": chroma_on,
    "langchain-qdrant, local": qdrant_on,
    "FAISS": faiss_on,
    "InMemoryVectorStore": memory_on,
    "LanceDB": lancedb_on,
}


def some(found: Any) -> str:
    """The letters in their own order: of equal scores any may come first."""
    return "".join(sorted(letters(found)))


def closed(store: Any) -> None:
    for each in (store, getattr(store, "client", None)):
        with contextlib.suppress(Exception):
            each.close()


def of_genre(store: Any, genre: str) -> Any:
    """A filter in the form that the store takes."""
    if type(store).__name__ == "QdrantVectorStore":
        from qdrant_client import models

        match = models.MatchValue(value=genre)
        return models.Filter(must=[models.FieldCondition(key="metadata.genre", match=match)])
    if type(store).__name__ == "InMemoryVectorStore":
        return lambda document: document.metadata["genre"] == genre
    if type(store).__name__ == "LanceDB":
        return f"metadata.genre = '{genre}'"
    return {"genre": genre}


# ---- the calls: each returns what it found, to be compared


def reopened(store: Any, folder: Path, make: Callable[[Path], Any]) -> str:
    closed(store)
    again = make(folder)
    try:
        return letters(again.similarity_search("1 0 0", k=1))
    finally:
        closed(again)


def given_ids(store: Any) -> str:
    found = store.similarity_search("1 0 0", k=1)[0]
    return str(found.id == BY_LETTER["a"])


def any_id(store: Any) -> str:
    store.add_documents([Document("0 0 1", id="films/one.txt#1", metadata={"year": 1})])
    return str([found.page_content for found in store.get_by_ids(["films/one.txt#1"])])


def replaced(store: Any) -> str:
    store.add_documents([Document("0 0 1", id=BY_LETTER["a"], metadata={"year": 1})])
    return str(len(store.similarity_search("1 0 0", k=9)))


def added_by_generator(store: Any) -> str:
    store.add_documents(Document("0 0 1", id=i, metadata={"year": 1}) for i in [BY_LETTER["a"]])
    return str(store.similarity_search("0 0 1", k=1)[0].page_content)


def deleted_unknown(store: Any) -> str:
    return str(store.delete([IDS[0], "00000000-0000-0000-0000-000000000009"]) is not False)


def deleted_by_filter(store: Any) -> str:
    store.delete(filter=of_genre(store, "drama"))
    return some(store.similarity_search("0 1 0", k=9))


def updated(store: Any) -> str:
    store.update_document(BY_LETTER["a"], Document("0 1 0", metadata={"year": 2000}))
    return str(store.get_by_ids([BY_LETTER["a"]])[0].metadata["year"])


def mmr_scores(store: Any) -> str:
    (found, score), _ = store.max_marginal_relevance_search_with_score_by_vector([1, 0, 0], k=2)
    return letters([found]) + type(score).__name__.removesuffix("32")


def lambda_one_is_relevance(store: Any) -> str:
    return letters(store.max_marginal_relevance_search("1 0 0", k=2, fetch_k=4, lambda_mult=1.0))


def relevances(store: Any) -> str:
    found = store.similarity_search_with_relevance_scores("1 0 0", k=4)
    return str(all(0 <= relevance <= 1.0001 for _, relevance in found) and found[0][1] > 0.999)


def threshold(store: Any) -> str:
    how = {"k": 4, "score_threshold": 0.9}
    return letters(store.as_retriever(search_type="similarity_score_threshold", search_kwargs=how).invoke("1 0 0"))


def rare_filter(store: Any) -> str:
    store.add_texts([f"1 0.0{i:03d} 0" for i in range(300)], [{"genre": "none", "year": i} for i in range(300)])
    return some(store.similarity_search("1 0 0", k=4, filter=of_genre(store, "horror")))


def pickled(store: Any) -> str:
    again = pickle.loads(pickle.dumps(store))
    return letters(again.similarity_search("1 0 0", k=1))


def misspelt(store: Any) -> str:
    try:
        store.similarity_search("1 0 0", k=1, fillter={"genre": "horror"})
    except Exception:
        return "refused"
    return "taken in silence"


def written(store: Any) -> str:
    from langchain_core.load import dumps

    if "not_implemented" in dumps(store.as_retriever()):
        raise NotImplementedError
    return "written"


def by(**given: Any) -> Callable[[Any], str]:
    return lambda store: some(store.similarity_search("1 0 0", k=4, **given))


def in_own_form(store: Any) -> str:
    return some(store.similarity_search("1 0 0", k=4, filter=of_genre(store, "horror")))


CALLS: list[tuple[str, Any, str]] = [
    ("what was added is there after opening the folder again", reopened, "a"),
    ("results carry the id", given_ids, "True"),
    ("ids are any string", any_id, "['0 0 1']"),
    ("adding an existing id replaces", replaced, "4"),
    ("`add_documents(generator)`", added_by_generator, "0 0 1"),
    ("`get_by_ids`", lambda s: letters(s.get_by_ids([BY_LETTER["b"]])), "b"),
    ("`delete` of an unknown id is no failure", deleted_unknown, "True"),
    ("`delete(filter=)`", deleted_by_filter, "cd"),
    ("`update_document`", updated, "2000"),
    ("`update_metadata` without embedding", lambda s: str(s.update_metadata([BY_LETTER["a"]], {"new": 1})), "1"),
    ("`get(where=, limit=)`", lambda s: str(len(s.get(where={"genre": "drama"}, limit=1)["ids"])), "1"),
    ("`add_embeddings`", lambda s: str(len(s.add_embeddings([("0 0 1", [0.0, 0.0, 1.0])]))), "1"),
    ("filter, in the store's own form", in_own_form, "cd"),
    ("filter `{field: value}`", by(filter={"genre": "horror"}), "cd"),
    ("filter on two fields at once", by(filter={"genre": "drama", "year": {"$gt": 1950}}), "a"),
    ("filter `$gte`", by(filter={"year": {"$gte": 1979}}), "cd"),
    ("filter `$or`", by(filter={"$or": [{"year": 1950}, {"year": 1979}]}), "bc"),
    ("filter on an element of a list", by(filter={"tags": {"$contains": "ice"}}), "d"),
    ("filter as a function of the document", by(filter=lambda d: d.metadata["year"] > 1960), "cd"),
    ("filter as a function of the metadata", by(filter=lambda m: m["year"] > 1960), "cd"),
    ("a filter that few of many match finds them all", rare_filter, "cd"),
    ("`where_document=`", by(where_document={"$contains": "0.9"}), "bd"),
    ("a filter without a query", lambda s: some(s.similarity_search(None, k=4, filter={"genre": "drama"})), "ab"),
    ("relevances lie between 0 and 1", relevances, "True"),
    ("retriever with `score_threshold`", threshold, "ab"),
    ("MMR: `lambda_mult=1` is relevance", lambda_one_is_relevance, "ab"),
    ("MMR with scores", mmr_scores, "afloat"),
    ("score in a retriever's metadata", lambda s: str(
        s.as_retriever(score_key="score").invoke("1 0 0")[0].metadata["score"] > 0.9), "True"),
    ("async search", lambda s: letters(asyncio.run(s.asimilarity_search("1 0 0", k=1))), "a"),
    ("a misspelt keyword is refused", misspelt, "refused"),
    ("pickle", pickled, "a"),
    ("`dumps` of a retriever that `load` reads", written, "written"),
]  # fmt: skip


def cell(make: Callable[[Path], Any], call: Any, wanted: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = make(Path(folder) / "films")
        try:
            store.add_documents(documents(), ids=IDS)
            said = call(store, Path(folder) / "films", make) if call is reopened else call(store)
        except Exception:
            return "no"
        finally:
            closed(store)
        if call is reopened and not said:  # nothing is kept without a call of its own
            return "no"
        return "yes" if said == wanted else "wrong" if said != "taken in silence" else "no"


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print("# LangChain stores, feature by feature\n")
    print("Each cell is from one run of `tests/adapters/feature_table.py` on four documents: yes, the call does what")
    print(
        "it should; no, there is no such call or keyword, or it raises; wrong, it answers otherwise. The run was with"
    )
    for at in range(0, len(PACKAGES), 5):
        end = "," if at + 5 < len(PACKAGES) else ".\n"
        print(", ".join(f"{name} {version(name)}" for name in PACKAGES[at : at + 5]) + end)
    print(f"| | {' | '.join(STORES)} |\n|---{'|---' * len(STORES)}|")
    for name, call, wanted in CALLS:
        print(f"| {name} | {' | '.join(cell(make, call, wanted) for make in STORES.values())} |", flush=True)


if __name__ == "__main__":
    main()
