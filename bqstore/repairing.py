"""`repair`: what is intact in a damaged collection goes into a new one, and what was lost is listed.

What is derived (codes, graph, columns) is made anew from the originals. The old collection is only read.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import checked_keywords
from .engine import writes
from .errors import CorruptionError, InvalidInputError, NotFoundError, StorageError
from .metadata.documents import metadata_of
from .opening import open as open_collection
from .paths import absolute
from .progress import Progress
from .results.outcomes import LostDocument, RepairReport
from .storage import Coding, Rows, Store, open_store, platform, record_table
from .storage.files import make_file, storage_errors, write_all
from .storage.folders import collection_folder
from .storage.format import ONE_BIT
from .storage.head import Row, code_form
from .storage.lock import WriterLock
from .storage.open_key_values import has_entries_alone, salvage
from .storage.salvage import Wreck, read_wreck
from .storage.text_index import TextIndex

_EXPECTED = "expected the folder of a store"
_WORK = ".repairing"


@checked_keywords
def repair(path: str | PathLike[str], to: str | PathLike[str], collection: str = "default") -> RepairReport:
    """Save what is intact of a damaged collection into a new one, and list what was lost.

    Every row and every vector is verified. Codes, graph and columns are derived, and made anew. Where only the vector
    of a document is damaged, its text and metadata are in the report, and can be embedded and added again. Keys and
    values (`open_key_values`) that are intact are saved, too, also where there are no documents beside them. The old
    collection is only read, and locked against writers meanwhile.

    Parameters
    ----------
    path : str or path      folder of the store
    to : str or path        folder of the store to write into, which has no such collection yet
    collection : str        its name, in both

    Returns
    -------
    RepairReport    ``lost`` is empty if all damage could be made good

    Raises
    ------
    NotFoundError           there is no such collection
    InvalidInputError       there is one in ``to`` already
    CorruptionError         the settings are damaged, or meta.db is missing: without them nothing can be saved
    LockedError, StorageError

    >>> import bqstore, pathlib
    >>> with bqstore.open("my-store") as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"], texts=["one", "two"])
    >>> file = pathlib.Path("my-store/default/vectors-0.bin")
    >>> _ = file.write_bytes(file.read_bytes()[:-20])  # the end is lost
    >>> report = bqstore.repair("my-store", to="my-repaired-store")
    >>> report.documents, [(lost.id, lost.text) for lost in report.lost]
    (1, [('b', 'two')])
    """
    source = collection_folder(absolute(path, expected=_EXPECTED), collection)
    target = absolute(to, "to", _EXPECTED)
    folder = collection_folder(target, collection)
    if not source.is_dir() or not any(source.iterdir()):
        raise NotFoundError(f"there is no collection in {source}")
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInputError(f"{folder} exists already; name the folder of another store")
    with storage_errors(f"repair {source}"), ExitStack() as stack:
        lock = WriterLock(source / "LOCK", "SEQ")
        with suppress(StorageError):  # a medium that cannot be written has no writers
            lock.wait(stack.enter_context(lock.open()), 0)
        wreck = None if has_entries_alone(source) else read_wreck(source)
        work = target / _WORK  # what an interrupted call leaves is no collection of the store
        shutil.rmtree(work, ignore_errors=True)
        platform.make_folder(collection_folder(work, collection))
        saved, lost, problems = (0, [], []) if wreck is None else _saved(wreck, work, collection)
        problems = problems + salvage(source, collection_folder(work, collection))
        file = _written(lost, target / f"{folder.name}-lost.jsonl") if lost else None
        collection_folder(work, collection).rename(folder)
        platform.sync_folder(target)
        shutil.rmtree(work, ignore_errors=True)
    return RepairReport(str(target), collection, saved, lost, None if file is None else str(file), problems)


def _saved(wreck: Wreck, target: Path, collection: str) -> tuple[int, list[LostDocument], list[str]]:
    """How many documents were saved, which not, and what is damaged."""
    save = _save_codes if wreck.head.settings["originals"] == "none" else _save_originals
    return save(wreck, target, collection), _lost(wreck), wreck.problems


def _save_originals(wreck: Wreck, target: Path, collection: str) -> int:
    """Add what is whole to a new collection with the same settings."""
    settings, whole = wreck.head.settings, wreck.whole
    with (
        open_collection(
            target,
            collection,
            dim=wreck.head.dim,
            **{name: settings[name] for name in ("distance", "originals", "embedding_model", "quantization", "hnsw")},
            search=settings.get("untuned", settings["search"]),
            target_recall=settings.get("target_recall"),
            text_index=_text_index(settings),
        ) as col,
        Progress("saving", len(whole)) as progress,
    ):
        for rows, records in _pieces(wreck, whole):
            assert wreck.vectors is not None
            writes.Add(col._engine, wreck.vectors.vectors(records), rows).finish()
            progress(len(col))
        col._engine.write(lambda: _save_records(wreck, whole, col._engine.store))
        col.flush()
        _check(col.verify().problems, target)
        return len(col)


def _save_codes(wreck: Wreck, target: Path, collection: str) -> int:
    """Write codes as they are into a new collection, as there are no originals to make them from."""
    head, whole = wreck.head, wreck.whole
    settings = head.settings
    if words := _text_index(settings):
        settings = {**settings, "text_index": words}
    store = open_store(collection_folder(target, collection), settings, head.dim, read_only=False)
    try:
        store.start_writing()
        for rows, records in _pieces(wreck, whole):
            assert wreck.codes is not None
            trained = code_form(head.settings) != ONE_BIT and store.head.n_slots == 0
            coding = Coding(settings, wreck.codes.parameters) if trained else None
            vectors = np.broadcast_to(np.float32(0), (len(records), head.dim or 1))  # not stored
            store.append(rows, vectors, wreck.codes.codes(records), coding)
        _save_records(wreck, whole, store)
    finally:
        store.close()
    with open_collection(target, collection) as col:
        _check(col.verify().problems, target)
        return len(col)


def _save_records(wreck: Wreck, whole: list[int], store: Store) -> None:
    """Write what a record manager has kept, but not of documents that are lost: they are to be added again.

    Other records are of documents that are kept elsewhere, if it is known which documents are lost.
    """
    saved, lost = {wreck.rows[rid].id for rid in whole}, [each.id for each in _lost(wreck)]
    is_known = wreck.sound and None not in lost and len(whole) + len(lost) >= wreck.head.n_live
    doomed = {record.key for record in wreck.records}.intersection(lost) if is_known else None
    found = [each for each in wreck.records if (each.key in saved if doomed is None else each.key not in doomed)]
    if found:
        store.change_records(lambda connection: record_table.write(connection, found))


def _text_index(settings: dict[str, Any]) -> dict[str, Any] | None:
    index = TextIndex.of(settings)
    return None if index is None else TextIndex(index.tokenize).stored()


def _pieces(wreck: Wreck, whole: list[int]) -> Iterator[tuple[Rows, Any]]:
    """Rows and their records, some at a time."""
    keeper = wreck.codes if wreck.head.settings["originals"] == "none" else wreck.vectors
    for rids, records in [] if keeper is None else keeper.pieces(whole):
        yield _rows([wreck.rows[rid] for rid in rids]), records


def _rows(rows: list[Row]) -> Rows:
    return Rows(
        [row.id for row in rows],
        [row.text for row in rows],
        [row.metadata for row in rows],
        [row.private for row in rows],
        [row.ref_doc_id for row in rows],
    )


def _check(problems: list[str], target: Path) -> None:
    if problems:
        raise CorruptionError(f"what was written to {target} is damaged ({problems[0]}): its disk is failing, too")


def _lost(wreck: Wreck) -> list[LostDocument]:
    out = []
    for rid, reason in wreck.lost:
        row = wreck.rows.get(rid)
        if row is None:
            out.append(LostDocument(wreck.ids.get(rid), reason))
        else:
            out.append(LostDocument(row.id, reason, row.text, metadata_of(row)))
    return out


def _written(lost: list[LostDocument], path: Path) -> Path:
    """Write them to a file, durably, with mode 0600."""
    data = "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in lost).encode()
    os.close(make_file(path, lambda fd: write_all(fd, data, 0)))
    return path
