"""The store on disk: opened if an earlier run finished it, built otherwise, taken up where it was broken off.

``<path>/<name>.json`` says what a collection was made from, and whether it is finished. It is written before
the first passage and after the last one, so that a run broken off in between is known for what it is.
"""

import json
import platform
import shutil
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bqstore import Embedder
from langchain_bqstore import BQVectorStore
from manual import embedders
from manual.corpus import Passage, passages

BATCH = 512  # passages an add: each is on disk when its add returns
CORPUS_VERSION = 1  # to be raised when corpus.py cuts the manual differently
# The manual is small enough to be compared float by float; at 0 every search goes through the bits, which is
# what a demo of them should show.
ALWAYS_BITS = {"full_scan_threshold": 0}


def open_or_build(
    path: Path, choice: embedders.Choice, limit: int | None, console: Console
) -> tuple[BQVectorStore, Embedder, bool]:
    """The store, its embedder, and whether it was there already."""
    _make_folder(path)
    plan = path / f"{choice.name}.json"
    source = {"python": platform.python_version(), "corpus": CORPUS_VERSION, "limit": limit}
    known = _read(plan)
    if known.get("source") != source:  # another Python, another --limit: another manual
        forget(path, choice)
    embedder = embedders.load(choice, path)
    if embedder is not None and known == {"source": source, "finished": True}:
        return _open(path, choice, embedder), embedder, True

    with _progress(console) as progress:
        reading = progress.add_task("Reading the manual", total=None)
        manual = passages(limit)
        progress.update(reading, total=len(manual), completed=len(manual))
        if embedder is None:
            fitting = progress.add_task("Learning its words", total=None)
            forget(path, choice)  # vectors of an embedder that is gone
            embedder = embedders.fit([passage.text for passage in manual], path)
            progress.update(fitting, total=len(manual), completed=len(manual))
        _write(plan, {"source": source, "finished": False})
        store = _open(path, choice, embedder)
        _add(store, manual, progress)
    _write(plan, {"source": source, "finished": True})
    return store, embedder, False


def forget(path: Path, choice: embedders.Choice) -> None:
    """Remove what the demo made for this embedder, and nothing else."""
    for made in (path / choice.name, *([] if choice.is_openai else [path / "offline-model"])):
        shutil.rmtree(made, ignore_errors=True)
    (path / f"{choice.name}.json").unlink(missing_ok=True)


def _open(path: Path, choice: embedders.Choice, embedder: Embedder) -> BQVectorStore:
    return BQVectorStore(
        embedder,
        path=str(path),
        collection_name=choice.name,
        distance="cosine",
        embedding_model=embedder.model,
        **ALWAYS_BITS,
    )


def _add(store: BQVectorStore, manual: list[Passage], progress: Progress) -> None:
    """Embed and add, batch by batch; what an earlier run added is passed over."""
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
    return Progress(
        TextColumn("  {task.description:<22}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True)
        (path / ".gitignore").write_text("*\n")  # the demo is often run inside a clone


def _read(plan: Path) -> dict[str, Any]:
    try:
        known = json.loads(plan.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(plan: Path, contents: dict[str, Any]) -> None:
    unfinished = plan.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(contents))
    unfinished.replace(plan)
