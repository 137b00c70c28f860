"""`bqstore demo`: stores the manual that Python ships, and asks it questions. No data leaves the machine."""

import platform
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import bqstore

from . import lsa
from .console import emit, errors_reported, note, say
from .formatting import milliseconds, size
from .manual import passages
from .options import Json, app
from .searching import hit_as_json, tell

COLLECTION = f"manual-{platform.python_version()}"  # each Python version has its own manual
QUESTIONS = (
    "How do I cache the results of a function?",
    "How do I turn a Python object into JSON text?",
    "How do I copy a file to another directory?",
)
_LIMIT = 1500  # passages, spread over the manual, which take a few seconds
_SHOWN = 2  # hits shown for a question


@app.command()
def demo(
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION...", help="Your own questions to the Python manual.")
    ] = None,
    path: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of the store; made if there is none.")] = (
        "bqstore-demo"
    ),
    as_json: Json = False,
) -> None:
    """Store the Python manual in a few seconds, and ask it some questions; no key, no network.

    It is embedded by latent semantic analysis, which knows words that occur together, not their meaning.
    """
    with errors_reported():
        lsa.check_installed()
        tell_all = note if as_json else say
        begun = time.perf_counter()
        with bqstore.open(path, COLLECTION, text_index=True) as col:
            model = _filled(col, path, tell_all)
            made = time.perf_counter() - begun
            info = col.info()
            tell_all(
                f"{info.count:,} passages of the manual of Python {platform.python_version()} are in {path}, ready in "
                f"{made:.1f} s: {size(info.count * info.code_bytes)} of codes in memory, "
                f"{size(info.count * info.vector_bytes)} as float32"
            )
            answers = [_asked(col, model, question) for question in questions or QUESTIONS]
        if as_json:
            emit({"path": path, "passages": info.count, "seconds": round(made, 3), "answers": answers})
            return
        for each in answers:
            say("")
            say(f"{each['question']} ({milliseconds(each['milliseconds'])} ms)")
            for place, hit in enumerate(each.pop("found"), 1):
                tell(place, hit)
        say("")
        say("Next, of your own documents:")
        say("  bqstore ingest my-store FOLDER --embedder lsa")
        say('  bqstore search my-store "a question"')


def _filled(col: "bqstore.Collection", path: str, tell_all: Any) -> Any:
    """Fill the collection, continuing after an interruption; returns its embedding model."""
    model = lsa.of_collection(path, COLLECTION)
    if model is not None and len(col) == _LIMIT:
        return model
    tell_all("Reading the manual, and learning its words ...")
    manual = passages(_LIMIT)
    if model is None:
        model = lsa.fitted(each.text for each in manual)
        lsa.keep(model, path, COLLECTION)
        Path(path, ".gitignore").write_text("*\n", "utf-8")  # it is often run inside a clone
    col.check_model(model.model, model.dim, remember=True, writing=True)
    missing = [each for each in manual if each.id not in col]
    col.add(
        model.embed([each.text for each in missing]),
        [each.id for each in missing],
        [each.text for each in missing],
        [{"title": each.title, "kind": each.kind, "module": each.module} for each in missing],
    )
    return model


def _asked(col: "bqstore.Collection", model: Any, question: str) -> dict[str, Any]:
    begun = time.perf_counter()
    hits = col.search(model.embed_query(question), _SHOWN)
    spent = 1e3 * (time.perf_counter() - begun)
    return {
        "question": question,
        "milliseconds": round(spent, 3),
        "found": hits,
        "hits": [hit_as_json(hit) for hit in hits],
    }
