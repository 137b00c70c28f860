"""The demo's store: built from the manual, continued after an interruption, or opened if it is complete."""

import json
import os
import platform
import shutil
from pathlib import Path

from langchain_core.documents import Document
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bqstore import CachedEmbedder, Embedder, OpenAIEmbedder
from langchain_bqstore import BQVectorStore
from manual.corpus import Passage, passages
from manual.offline import OfflineEmbedder

BATCH = 512  # passages per add: each is on disk when its add returns
CORPUS_VERSION = 2  # to be raised when `bqstore.cli.manual` cuts the manual differently, or `Lsa` finds other words
# The manual is so small that the store would compare float vectors. At 0 every search uses the codes, which is what
# the demo is about.
SEARCH_CODES = {"full_scan_threshold": 0}


def embedder_name() -> str:
    """Return "openai" if there is a key for it, else "offline". It also names the collection: one per model."""
    return "openai" if os.environ.get("OPENAI_API_KEY", "").strip() else "offline"


def open_or_build(path: Path, name: str, limit: int | None, console: Console) -> tuple[BQVectorStore, Embedder, bool]:
    """Return the store, its embedder, and whether an earlier run had completed it.

    ``<path>/<name>.json`` says what the collection is made from and of how many passages. It is written before the
    first passage, so that a collection with fewer passages is known to be incomplete.
    """
    if not path.is_dir():
        path.mkdir(parents=True)
        (path / ".gitignore").write_text("*\n")  # the demo is often run inside a clone
    plan = path / f"{name}.json"
    source = {"python": platform.python_version(), "corpus": CORPUS_VERSION, "limit": limit}
    known = json.loads(plan.read_text()) if plan.exists() else {}
    if known.get("source") != source:  # another Python or another --limit: other passages
        forget(path, name)
    embedder = _load_embedder(path, name)
    if embedder is not None and plan.exists():
        store = _open(path, name, embedder)
        if len(store.collection) == known["passages"]:
            return store, embedder, True
        store.close()
    with _progress(console) as progress:
        reading = progress.add_task("Reading the manual", total=None)
        manual = passages(limit)
        progress.update(reading, total=len(manual), completed=len(manual))
        if embedder is None:
            fitting = progress.add_task("Learning its words", total=None)
            embedder = OfflineEmbedder.fit([passage.text for passage in manual])
            embedder.save(_model_file(path))
            progress.update(fitting, total=len(manual), completed=len(manual))
        plan.write_text(json.dumps({"source": source, "passages": len(manual)}))
        store = _open(path, name, embedder)
        _add(store, manual, progress)
    return store, embedder, False


def forget(path: Path, name: str) -> None:
    """Remove what the demo made for this embedder, and nothing else."""
    shutil.rmtree(path / name, ignore_errors=True)
    (path / f"{name}.json").unlink(missing_ok=True)
    if name == "offline":
        _model_file(path).unlink(missing_ok=True)


def _model_file(path: Path) -> Path:
    return path / "offline-model.npz"


def _load_embedder(path: Path, name: str) -> Embedder | None:
    """Return the embedder, or None if the offline one is not fitted yet."""
    if name == "openai":
        return OpenAIEmbedder()
    if name == "wordllama":
        return CachedEmbedder("wordllama:l2_supercat", cache=False)  # as quick as a cache
    return OfflineEmbedder.load(_model_file(path)) if _model_file(path).exists() else None


def _open(path: Path, name: str, embedder: Embedder) -> BQVectorStore:
    return BQVectorStore(embedder, path=path, collection_name=name, **SEARCH_CODES)


def _add(store: BQVectorStore, manual: list[Passage], progress: Progress) -> None:
    """Embed and add the passages that are missing, batch by batch."""
    missing = [passage for passage in manual if passage.id not in store.collection]
    adding = progress.add_task("Embedding and storing", total=len(manual), completed=len(manual) - len(missing))
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        store.add_documents(
            [
                Document(
                    id=passage.id,
                    page_content=passage.text,
                    metadata={"title": passage.title, "kind": passage.kind, "module": passage.module},
                )
                for passage in batch
            ]
        )
        progress.advance(adding, len(batch))


def _progress(console: Console) -> Progress:
    columns = (TextColumn("  {task.description:<22}"), BarColumn(bar_width=30), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)
