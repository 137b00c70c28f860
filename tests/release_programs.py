"""The programs that `release_check.py` runs in each fresh environment.

python -I release_programs.py NAME ORIGIN FOLDER

NAME is a key of PROGRAMS, ORIGIN the folder that the packages must come from, FOLDER a place for a store.
"""

import importlib.util
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

DISTRIBUTIONS = ("bqstore", "langchain-bqstore", "llama-index-vector-stores-bqstore")
PACKAGES = ("bqstore", "langchain_bqstore", "llama_index.vector_stores.bqstore")


def check_origin(origin: Path) -> None:
    """Assert that the packages are those of the installation, not of some other folder."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None, f"{package} is not installed"
        home = Path(spec.origin).resolve()
        assert home.is_relative_to(origin), f"{package} comes from {home}, not from {origin}"


def core(folder: Path) -> None:
    """A store on disk: written, searched by codes and exactly, read by a second handle, opened again."""
    from importlib.metadata import version

    import numpy as np

    import bqstore

    assert bqstore.__version__ == version("bqstore")
    vectors = np.random.default_rng(7).standard_normal((500, 200)).astype(np.float32)
    ids = [f"document {i}" for i in range(500)]
    with bqstore.open(folder, hnsw={"full_scan_threshold": 0}) as store:
        store.add(vectors, ids, [f"text {i}" for i in range(500)], [{"even": i % 2 == 0} for i in range(500)])
        assert [hit.id for hit in store.search(vectors[3], k=1)] == ["document 3"]
        with bqstore.open(folder, read_only=True) as reader:
            assert len(reader) == 500
        before = store.search(vectors[4], k=5, filter={"even": True})
        assert before[0].id == "document 4" and abs(before[0].score - 1) < 1e-5
    with bqstore.open(folder) as store:
        assert store.search(vectors[4], k=5, filter={"even": True}) == before
        assert store.search(vectors[5], k=1, exact=True)[0].text == "text 5"
        assert store.delete(["document 3"]) == 1 and "document 3" not in store
        report = store.verify()
        assert report.ok and report.documents == 499, report.problems


def use_langchain(folder: Path) -> None:
    """Texts added and found again, before and after opening the store a second time."""
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from langchain_bqstore import BQVectorStore

    texts = [f"passage {i}" for i in range(50)]
    model = DeterministicFakeEmbedding(size=96)
    with BQVectorStore(model, path=folder, oversampling=2.0) as store:
        ids = store.add_texts(texts, [{"number": i} for i in range(50)])
        assert store.similarity_search("passage 8", k=1)[0].page_content == "passage 8"
    with BQVectorStore(model, path=folder) as store:
        found = store.as_retriever(search_kwargs={"k": 3, "filter": {"number": [8, 9]}}).invoke("passage 9")
        assert [document.page_content for document in found] == ["passage 9", "passage 8"]
        assert store.get_by_ids(ids[:1])[0].metadata == {"number": 0}


def use_llama_index(folder: Path) -> None:
    """Documents added through an index and retrieved, after opening the store a second time."""
    from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex

    from llama_index.vector_stores.bqstore import BQVectorStore

    model = MockEmbedding(embed_dim=96)
    documents = [Document(text=f"passage {i}", doc_id=f"d{i}", metadata={"number": i}) for i in range(9)]
    with BQVectorStore(path=folder, oversampling=2.0) as store:
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=model)
        index.delete_ref_doc("d3")
    with BQVectorStore(path=folder) as store:
        index = VectorStoreIndex.from_vector_store(store, embed_model=model)
        found = index.as_retriever(similarity_top_k=20).retrieve("anything")
        assert {node.text for node in found} == {f"passage {i}" for i in range(9) if i != 3}
        assert all(abs(node.score - 1) < 1e-5 for node in found)


def use_openai(folder: Path) -> None:
    """Texts embedded by a server on this machine and found again in a store."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "embeddings"))
    from fake_server import serve

    import bqstore

    texts = ["one", "two", "three"]
    with serve() as server, bqstore.open(folder) as store:
        embedder = bqstore.OpenAIEmbedder(
            api_key="no-real-key", model="own", base_url=server.url, cache=folder / "cache"
        )
        store.add(embedder.embed(texts), texts=texts)
        assert store.search(embedder.embed_query("two"), k=1)[0].text == "two"
        embedder.close()


def miss_langchain(folder: Path) -> None:
    """Without langchain-core."""
    names_the_extra("langchain", "langchain_core", lambda: import_module("langchain_bqstore"))


def miss_llama_index(folder: Path) -> None:
    """Without llama-index-core."""
    names_the_extra("llama-index", "llama_index.core", lambda: import_module("llama_index.vector_stores.bqstore"))


def miss_openai(folder: Path) -> None:
    """Without openai, and without a key: the missing package is reported first."""
    import bqstore

    names_the_extra("openai", "openai", bqstore.OpenAIEmbedder)


def share_no_file(folder: Path) -> None:
    """No file of an environment belongs to two distributions of the project."""
    owners: dict[Path, str] = {}
    for name in DISTRIBUTIONS:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        for each in map(Path, map(str, files)):
            assert each not in owners, f"{each} belongs to {owners[each]} and to {name}"
            owners[each] = name
    print(", ".join(f"{name}: {count} files" for name, count in sorted(Counter(owners.values()).items())))


def nothing_left(folder: Path) -> None:
    """No distribution of the project is installed, and no source file of its packages is left."""
    for name in DISTRIBUTIONS:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        raise AssertionError(f"{name} is still installed")
    site = Path(sysconfig.get_path("purelib"))
    left = [each for package in PACKAGES for each in (site / package.replace(".", "/")).rglob("*") if each.is_file()]
    installed = [each for each in left if "__pycache__" not in each.parts]  # pip leaves what runs have made there
    assert not installed, f"{installed[0]} is left"
    import llama_index.core

    print(f"removed; left by runs: {len(left)} files; {llama_index.core.__name__} is as it was")


def names_the_extra(extra: str, module: str, action: Callable[[], object]) -> None:
    """Assert that a module is missing, and that the action fails with an ImportError that says what to install."""
    installed = importlib.util.find_spec(module) is not None
    assert not installed, f"{module} is installed, though no extra that was asked for has it"
    for _ in range(2):  # the second import finds what the first has left in sys.modules
        try:
            action()
        except ImportError as error:
            assert f"bqstore[{extra}]" in str(error), f"the error does not name the extra: {error}"
        else:
            raise AssertionError(f"no ImportError without {module}")


PROGRAMS: dict[str, Callable[[Path], None]] = {
    "core": core,
    "use-langchain_core": use_langchain,
    "use-llama_index.core": use_llama_index,
    "use-openai": use_openai,
    "miss-langchain_core": miss_langchain,
    "miss-llama_index.core": miss_llama_index,
    "miss-openai": miss_openai,
    "share-no-file": share_no_file,
    "nothing-left": nothing_left,
}

if __name__ == "__main__":
    name, origin, folder = sys.argv[1:]
    if name != "nothing-left":
        check_origin(Path(origin))
    PROGRAMS[name](Path(folder))
