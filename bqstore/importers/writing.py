"""Export a collection to JSON lines, npz, Parquet or Arrow, in forms that `import_from` reads back without loss."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

import bqstore

from .tables import DOCUMENTS

_KNOWN = (".jsonl", ".npz", ".parquet", ".arrow")
_AT_ONCE = 1000


def export(col: bqstore.Collection, path: str | PathLike[str]) -> int:
    """Write all documents of a collection to a file; returns their number.

    The suffix selects the format: ``.jsonl``, ``.npz`` (built in memory), ``.parquet`` or ``.arrow`` (these need
    pyarrow). Dates in metadata become ISO text, since JSON has no dates. The file does not contain the distance: pass
    it to `import_from`. The file appears only when it is complete.

    Raises
    ------
    InvalidInputError   the suffix is unknown, the file exists, or ``originals="none"``: there are no vectors to write

    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.5]], ids=["a"], texts=["one"], metadatas=[{"lang": "en"}])
    ...     export(col, "all.jsonl")
    1
    >>> open("all.jsonl").read()
    '{"id": "a", "text": "one", "metadata": {"lang": "en"}, "vector": [1.0, 0.5]}\\n'
    """
    if not isinstance(col, (bqstore.Collection, bqstore.RemoteCollection)):
        raise bqstore.InvalidInputError(f"export takes an open collection, not {type(col).__name__}: bqstore.open() it")
    if not isinstance(path, (str, PathLike)):
        raise bqstore.InvalidInputError(f"the file is {path!r}; expected a path")
    place = Path(path).expanduser()
    if place.suffix not in _KNOWN:
        raise bqstore.InvalidInputError(f"{place} ends in {place.suffix!r}; expected one of {', '.join(_KNOWN)}")
    if not place.parent.is_dir():
        raise bqstore.InvalidInputError(f"there is no folder {place.parent}")
    if place.exists():
        raise bqstore.InvalidInputError(f"{place} exists; remove it, or give another name")
    if col.info().originals == "none":
        raise bqstore.InvalidInputError("this collection keeps no originals, so there are no vectors to write")
    begun = place.with_name(f".{place.name}.part")
    try:
        with begun.open("wb") as file:
            write = {".jsonl": _lines, ".npz": _arrays}.get(place.suffix, _tables)
            count = write(col, file, place.suffix)
        begun.replace(place)
    finally:
        begun.unlink(missing_ok=True)
    return count


def _documents(col: bqstore.Collection) -> Iterator[bqstore.Record]:
    return iter(col.scroll(with_vectors=True))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda each: each.isoformat())


def _lines(col: bqstore.Collection, file: Any, _: str) -> int:
    count = 0
    for count, each in enumerate(_documents(col), 1):  # noqa: B007 - the last value is used
        assert each.vector is not None
        row = {"id": each.id, "text": each.text, "metadata": each.metadata, "vector": each.vector.tolist()}
        file.write((_json(row) + "\n").encode())
    return count


def _arrays(col: bqstore.Collection, file: Any, _: str) -> int:
    found = list(_documents(col))
    vectors = np.array([each.vector for each in found], np.float32).reshape(len(found), col.info().dim or 0)
    with zipfile.ZipFile(file, "w") as whole:
        with whole.open("vectors.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array(out, vectors, allow_pickle=False)
        # not as arrays: numpy pads strings to the longest, has no missing text, and drops trailing NUL characters
        with whole.open(DOCUMENTS, "w", force_zip64=True) as out:
            for each in found:
                out.write((_json({"id": each.id, "text": each.text, "metadata": each.metadata}) + "\n").encode())
    return len(found)


def _tables(col: bqstore.Collection, file: Any, ending: str) -> int:
    try:
        pa: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise bqstore.InvalidInputError(f"writing {ending} files needs pyarrow: pip install pyarrow") from None
    text = pa.string()
    vector = pa.list_(pa.float32(), col.info().dim or -1)
    schema = pa.schema([("id", text), ("text", text), ("metadata", text), ("vector", vector)])
    rows = (
        {"id": each.id, "text": each.text, "metadata": _json(each.metadata), "vector": each.vector}
        for each in _documents(col)
    )
    made = parquet.ParquetWriter(file, schema) if ending == ".parquet" else pa.ipc.new_file(file, schema)
    count = 0
    with made as writer:
        while some := list(islice(rows, _AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(some, schema))
            count += len(some)
    return count
