"""Tables and arrays: Parquet, Arrow and LanceDB by their libraries, npy, npz and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bqstore

from . import framework_keys
from .source import AT_ONCE, One, Source, chosen, damaged, dim_of, portions, text_of

_IDS = ("id", "ids", "_id", "uuid", "doc_id")
_TEXTS = ("text", "document", "page_content", "content", "chunk")
_VECTORS = ("vector", "vectors", "embedding", "embeddings")
_SINGULAR = {"texts": "text", "documents": "document", "metadatas": "metadata"}  # of the arrays of an npz
_LINES = (".jsonl", ".ndjson")


def _of_row(row: dict[str, Any], place: int, path: Path) -> One:
    """A document of a row, by the usual names of columns; without an id it is the file's name and its place."""
    vector = next((row.pop(key) for key in _VECTORS if row.get(key) is not None), None)
    if isinstance(vector, str):  # a list as JSON, as CSV-like dumps have it
        with suppress(ValueError):
            vector = json.loads(vector)
    if vector is None:
        raise bqstore.InvalidInputError(f"row {place} has no vector; its column is named {' or '.join(_VECTORS)}")
    id_ = next((row.pop(key) for key in _IDS if row.get(key) is not None), f"{path.name}:{place}")
    if isinstance(id_, bytes):
        id_ = id_.hex()
    return One(str(id_), *framework_keys.with_our_keys(*text_and_metadata(row)), vector)


def text_and_metadata(row: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """What a row holds besides id and vector, by the usual names of columns."""
    text, rest = text_of(row, *_TEXTS)
    nested = given = rest.pop("metadata", None)
    if isinstance(given, str):  # JSON in a column of text
        with suppress(ValueError):
            nested = json.loads(given)
    if not isinstance(nested, dict):
        nested = {} if given is None else {"metadata": given}
    return text, {**rest, **nested}


def _object(text: str | bytes, path: Path, place: int) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, f"document {place + 1} is no JSON ({error})") from None
    if not isinstance(row, dict):
        raise damaged(path, f"document {place + 1} is no JSON object")
    return row


def _without_nulls(value: Any) -> Any:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.strip())


def recognizes_lines(path: Path) -> bool:
    """Whether this is a file of JSON lines."""
    return path.suffix in _LINES and path.is_file()


def open_lines(path: Path, collection: str | None) -> Source:
    """Documents as JSON lines: {"id", "text", "metadata", "vector"}, or the usual other names of these."""

    def each() -> Iterator[One]:
        with path.open("rb") as file:
            for place, line in enumerate(file):
                if line.strip():
                    yield _of_row(_object(line, path, place), place, path)

    first = next(each(), None)
    count = sum(1 for _ in _lines(path))
    dim = 0 if first is None else dim_of(first)
    return Source("jsonl", path, "", count, dim, "cosine", lambda: portions(each(), dim))


def recognizes_arrays(path: Path) -> bool:
    """Whether this is an npy or npz file."""
    return path.suffix in (".npy", ".npz") and path.is_file()


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name; that of an npy is mapped. ValueError for arrays of Python objects."""
    if path.suffix == ".npy":
        return {"vectors": np.load(path, mmap_mode="r", allow_pickle=False)}
    with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def open_arrays(path: Path, collection: str | None) -> Source:
    """Vectors of an npy file, with documents in JSON lines of the same name beside it; or an npz with both."""
    arrays = _arrays(path)
    vectors = next((arrays.pop(key) for key in _VECTORS if key in arrays), None)
    if vectors is None:
        known = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
        raise bqstore.InvalidInputError(f"{path} has no vectors of shape (n, dim) named {_VECTORS}; it has {known}")
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise bqstore.InvalidInputError(
            f"the vectors of {path} are {vectors.dtype} of shape {vectors.shape}; expected real numbers of (n, dim)"
        )
    n = len(vectors)
    columns = {name: array for name, array in arrays.items() if array.shape[:1] == (n,)}
    exported = _are_ours(columns)
    lines_of = [path.with_suffix(each) for each in _LINES] if path.suffix == ".npy" else []
    beside = next((file for file in lines_of if file.is_file()), None)

    def each() -> Iterator[One]:
        lines = iter(()) if beside is None else _lines(beside)
        for place in range(n):
            row = {_SINGULAR.get(name, name): array[place].tolist() for name, array in columns.items()}
            if exported:
                row = _object(row["document"], path, place)
            if beside is not None:
                line = next(lines, None)
                if line is None:
                    raise damaged(path, f"{beside} ends after {place:,} documents; there are {n:,} vectors")
                row.update(_object(line, path, place))
            yield _of_row(row | {"vector": vectors[place]}, place, path)
        if next(lines, None) is not None:
            raise damaged(path, f"{beside} has more documents than the {n:,} vectors")

    notes = [f"{name!r} of shape {a.shape} is left out" for name, a in arrays.items() if name not in columns]
    return Source("arrays", path, "", n, vectors.shape[1], "cosine", lambda: portions(each(), vectors.shape[1]), notes)


def _are_ours(columns: dict[str, Any]) -> bool:
    """Whether `export` wrote this npz: its documents are JSON objects of three keys; others' are texts."""
    if columns.keys() != {"documents"} or not len(columns["documents"]):
        return False
    with suppress(ValueError, TypeError, RecursionError):
        first = json.loads(columns["documents"][0].tolist())
        return isinstance(first, dict) and first.keys() == {"id", "text", "metadata"}
    return False


def recognizes_arrow(path: Path) -> bool:
    """Whether this is a Parquet or Arrow file."""
    return path.suffix in (".parquet", ".pq", ".arrow", ".feather") and path.is_file()


def _needs(library: str, what: str) -> bqstore.InvalidInputError:
    return bqstore.InvalidInputError(f"{what} is read by {library}: pip install {library}")


def _from_arrow(kind: str, path: Path, name: str, count: int, batches: Callable[[], Any], distance: str) -> Source:
    """The rows of Arrow's record batches."""

    def each() -> Iterator[One]:
        place = 0
        for batch in batches():
            for row in batch.to_pylist():
                # a table has a null where a document lacks what others have; JSON in its text means what it says
                yield _of_row({k: _without_nulls(v) for k, v in row.items() if v is not None}, place, path)
                place += 1

    first = next(each(), None)
    dim = 0 if first is None else dim_of(first)
    return Source(kind, path, name, count, dim, distance, lambda: portions(each(), dim))


def open_arrow(path: Path, collection: str | None) -> Source:
    """The rows of a Parquet or Arrow file, by the usual names of columns."""
    try:
        pyarrow: Any = import_module("pyarrow")
        import_module("pyarrow.dataset")
    except ImportError:
        raise _needs("pyarrow", str(path)) from None
    form = "parquet" if path.suffix in (".parquet", ".pq") else "feather"
    table = pyarrow.dataset.dataset(path, format=form)
    batches = partial(table.to_batches, batch_size=AT_ONCE)
    return _from_arrow("arrow", path, "", table.count_rows(), batches, "cosine")


def recognizes_lance(path: Path) -> bool:
    """Whether this is a folder of LanceDB tables, or one of them."""
    return path.is_dir() and (path.suffix == ".lance" or any(path.glob("*.lance")))


def open_lance(path: Path, collection: str | None) -> Source:
    """The rows of a table of LanceDB."""
    if path.suffix == ".lance":
        path, collection = path.parent, path.stem
    name = chosen(sorted(each.stem for each in path.glob("*.lance")), collection, path)
    try:
        lancedb: Any = import_module("lancedb")
    except ImportError:
        raise _needs("lancedb", str(path)) from None
    table = lancedb.connect(str(path)).open_table(name)
    count = table.count_rows()
    batches = partial(table.search().limit(count).to_batches, batch_size=AT_ONCE)
    return _from_arrow("lancedb", path, name, count, batches, "euclid")
