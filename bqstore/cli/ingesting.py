"""`bqstore ingest`: stores folders of documents in a collection; unchanged passages are not embedded again.

A passage that the collection holds with equal text and metadata is skipped, so an interrupted run can be continued, and
a second run only embeds changes. Passages that are no longer in their file are deleted after the new ones are stored.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Annotated, Any

import numpy as np
import typer

import bqstore
from bqstore.progress import Progress

from . import lsa
from .console import collection_of, emit, errors_reported, note, say
from .embedders import KINDS, as_embedder, embedder_named
from .options import Json, Name, app
from .origins import Origins
from .passages import SUFFIXES, Cut, Passage, Source, check_storable, passages, root_of, sources

_ROUNDED = 1 / 250  # tolerance relative to a vector's largest value: int8 has 127 steps
BATCH = 512  # passages embedded and stored at a time
_SHOWN = 5  # files listed by name; more are only counted


@dataclass
class Ingested:
    """The result of a run."""

    files: int = 0
    passages: int = 0
    unchanged: int = 0
    added: int = 0
    deleted: int = 0
    price: float | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    without_text: dict[str, None] = field(default_factory=dict)


class _Reader:
    """Reads all files anew at each call. Unreadable files are recorded once, and their stored passages kept."""

    def __init__(self, files: list[Source], cut: Cut, text_field: str | None) -> None:
        self.files, self._cut, self._text_field = files, cut, text_field
        self.told, self.texts = Ingested(), False  # whether there are texts to embed
        self.col: bqstore.Collection | None = None  # its documents from other folders must not be replaced
        self._roots, self._free = {root_of(each.name) for each in files}, set[str]()

    def __call__(self) -> Iterator[Passage]:
        self.ids: dict[str, set[str]] = {}  # passage ids of each readable file
        owners: dict[str, str] = {}
        for source in self.files:
            if source.name in self.told.left_out:
                continue
            try:
                found = list(passages(source, self._cut, self._text_field))
                for each in found:  # of two documents with one id, one would silently replace the other
                    if (other := owners.setdefault(each.id, source.name)) != source.name:
                        raise bqstore.InvalidInputError(f"a row has the id {each.id!r}, which one of {other} has, too")
                if len({each.id for each in found}) < len(found):
                    raise bqstore.InvalidInputError("two of its rows have the same id")
                check_storable(source, found)
                self._check_free(source, found)
            except (bqstore.InvalidInputError, OSError) as error:
                self.told.left_out[source.name] = str(error)
                owners = {id_: name for id_, name in owners.items() if name != source.name}
                continue
            if not found:
                self.told.without_text[source.name] = None
            self.ids[source.name] = {each.id for each in found}
            self.texts = self.texts or any(each.text is not None for each in found)
            yield from found

    def _check_free(self, source: Source, found: list[Passage]) -> None:
        """Refuse a file with row ids that belong to stored documents of folders not read in this run."""
        own = [each.id for each in found if not each.id.startswith(source.name + "#")]
        if self.col is None or not own or source.name in self._free:
            return
        for start in range(0, len(own), BATCH):
            for held in self.col.get(own[start : start + BATCH]):
                other = held.metadata.get("source")
                if isinstance(other, str) and root_of(other) not in self._roots:
                    raise bqstore.InvalidInputError(
                        f"a row has the id {held.id!r}, which one of {other} in the collection has, too: give this "
                        "folder a --collection of its own"
                    )
        self._free.add(source.name)


@app.command()
def ingest(
    path: Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store; made if there is none.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Folders and files of documents.")],
    embedder: Annotated[
        str | None, typer.Option("--embedder", metavar="NAME", envvar="BQSTORE_EMBEDDER", help=f"What embeds: {KINDS}.")
    ] = None,
    collection: Name = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="A server that speaks OpenAI's protocol.")] = None,
    size: Annotated[
        int, typer.Option(metavar="NUMBER", min=50, max=100_000, help="Characters of a passage, at most.")
    ] = 1000,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", min=0, help="Characters repeated from the passage before; else a tenth of --size."
        ),
    ] = None,
    text_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="The field of a row that holds its text.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Delete passages of files that are gone.")] = False,
    moved: Annotated[
        bool,
        typer.Option("--moved", help="Accept a folder from a new path as the earlier one of that name."),
    ] = False,
    words: Annotated[bool, typer.Option("--words/--no-words", help="Whether a new collection indexes words.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be done, and write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before texts are sent to a server.")] = False,
    as_json: Json = False,
) -> None:
    """Cut folders of documents into passages, embed them and store them; run again, embed only what has changed.

    Reads text, Markdown, HTML, PDF (needs pypdf), JSON lines, CSV, Parquet (needs pyarrow) and .npy files of vectors.
    For a paid model it shows the price and asks first. An interrupted run continues when it is started again.
    """
    with errors_reported(), ExitStack() as open_:
        read = _Reader(sources(files), Cut(size, size // 10 if overlap is None else overlap), text_field)
        name = collection_of(path, collection)
        is_new = name not in bqstore.collections(path)
        # report an unknown name before the store is created or files are read
        model = None if embedder in (None, lsa.NAME) else open_.enter_context(embedder_named(str(embedder), base_url))
        col = None if is_new else open_.enter_context(bqstore.open(path, name, read_only=dry_run))
        learned = None
        if model is None:
            learned = lsa.of_collection(path, name)
            if learned is None and embedder is not None:
                learned = lsa.fitted(each.text for each in read() if each.text is not None)
            model = None if learned is None else open_.enter_context(as_embedder(learned))
        if col is not None and model is not None:
            col.check_model(model.model, model.dim, writing=not dry_run)
        origins = Origins(path, name, read.files, moved)
        names = [] if col is None else [each for each in col.distinct("source") if isinstance(each, str)]
        if col is not None:
            origins.check(set(map(root_of, names)), read(), partial(_changed, col=col))
        read.col = col
        told, missing = read.told, _plan(read, col)
        if model is None and read.texts:
            raise bqstore.InvalidInputError(f"passages are to be embedded: name what embeds by --embedder: {KINDS}")
        told.gone = _gone(names, read, origins)
        costs = isinstance(model, bqstore.OpenAIEmbedder)
        if missing and isinstance(model, bqstore.OpenAIEmbedder):
            texts = (each.text for each in _changed(read(), col) if each.text is not None)
            told.price = model.estimate(texts).price
        if not as_json:
            _say_plan(told, missing, costs)
        if not dry_run:
            if missing and costs and not yes:
                typer.confirm("Send them?", abort=True, err=as_json)
            if learned is not None and missing:
                lsa.keep(learned, path, name)
            if col is None and missing:
                col = open_.enter_context(
                    bqstore.open(path, name, text_index=True) if words else bqstore.open(path, name)
                )
            if col is not None:
                origins.keep()
                _store(col, model, read, missing, prune)
        if as_json:
            emit({**asdict(told), "without_text": list(told.without_text)})
        else:
            _say_done(told, dry_run, prune)
    if told.left_out:
        raise typer.Exit(1)


def _changed(found: Iterable[Passage], col: "bqstore.Collection | None") -> Iterator[Passage]:
    """The passages that are missing in a collection, or differ there."""
    waiting = iter(found)
    while some := list(islice(waiting, BATCH)):
        whole = any(each.vector is not None for each in some)
        there = {}
        if col is not None:
            there = {each.id: each for each in col.get([each.id for each in some], with_vectors=whole)}
        for each in some:
            known = there.get(each.id)
            if known is None or known.text != each.text or known.metadata != each.metadata or _differs(known, each):
                yield each


def _differs(known: "bqstore.Record", passage: Passage) -> bool:
    """Whether the stored vector differs from the file's by more than rounding to fewer bits explains."""
    if passage.vector is None:
        return False
    if known.vector is None or len(known.vector) != len(passage.vector):
        return True
    off = np.abs(np.asarray(known.vector, np.float32) - passage.vector).max(initial=0.0)
    return bool(off > _ROUNDED * np.abs(passage.vector).max(initial=0.0))


def _plan(read: _Reader, col: "bqstore.Collection | None") -> int:
    """Count files and passages; returns how many passages are new or changed."""
    missing = sum(1 for _ in _changed(read(), col))
    told = read.told
    told.files, told.passages = len(read.ids), sum(map(len, read.ids.values()))
    told.unchanged = max(0, told.passages - missing)
    return missing


def _gone(known: list[str], read: _Reader, origins: Origins) -> list[str]:
    """Names of files in the given folders that the collection has passages of, but that no longer exist."""
    there = {each.name for each in read.files}
    below = {root for root in map(root_of, there) if origins.is_whole(root)}
    return [name for name in known if root_of(name) in below and "/" in name and name not in there]


def _store(col: "bqstore.Collection", model: Any, read: _Reader, missing: int, prune: bool) -> None:
    told, had = read.told, len(col) > 0
    changed = _changed(read(), col)
    with Progress("embedding", missing) as progress:
        while some := list(islice(changed, BATCH)):
            texts, rows = ([each for each in some if (each.vector is None) is is_text] for is_text in (True, False))
            for part in filter(None, (texts, rows)):
                if part is texts:
                    vectors = model.embed([each.text for each in part])
                    col.check_model(model.model, vectors.shape[1], remember=not told.added, writing=True)
                else:
                    vectors = np.stack([each.vector for each in part])
                col.add(vectors, *([getattr(each, name) for each in part] for name in ("id", "text", "metadata")))
            told.added += len(some)
            progress(told.added)
    if had:
        for name, ids in read.ids.items():
            stale = [id_ for id_ in col.ids({"source": name}) if id_ not in ids]
            told.deleted += col.delete(stale) if stale else 0
    if prune and told.gone:
        told.deleted += col.delete(filter={"source": {"$in": told.gone}})


def _say_plan(told: Ingested, missing: int, costs: bool) -> None:
    price = "" if not (missing and costs) else "; price unknown" if told.price is None else f"; US$ {told.price:,.4f}"
    say(f"{told.files:,} files, {told.passages:,} passages, {missing:,} of them new or changed{price}")


def _say_done(told: Ingested, dry_run: bool, prune: bool) -> None:
    if not told.files and not told.left_out:
        note(f"there is no file of a kind that is read: {', '.join(SUFFIXES)}")
    say("Nothing was written." if dry_run else f"{told.added:,} stored, {told.deleted:,} deleted")
    if told.gone and (dry_run or not prune):
        say(f"{len(told.gone):,} files are gone; --prune deletes their passages")
    scans = [name for name in told.without_text if name.lower().endswith(".pdf")]
    if scans:
        note(f"{len(scans):,} PDF files have no text, as those that were scanned: {', '.join(scans[:_SHOWN])}")
    for name, reason in islice(told.left_out.items(), _SHOWN):
        note(f"{name} was left out: {reason}")
    if len(told.left_out) > _SHOWN:
        note(f"and {len(told.left_out) - _SHOWN:,} more were left out")
