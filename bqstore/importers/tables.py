"""Tables and arrays: Parquet, Arrow and LanceDB, read by their libraries; npy, npz and JSON lines, read here."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

import bqstore

from ..metadata import framework_keys
from .source import AT_ONCE, One, Source, chosen, damaged, dim_of, portions, regular

_IDS = ("id", "ids", "_id", "uuid", "doc_id")
_TEXTS = ("text", "document", "page_content", "content", "chunk")
_VECTORS = ("vector", "vectors", "embedding", "embeddings")
_SINGULAR = {"texts": "text", "documents": "document", "metadatas": "metadata"}  # names of arrays in an npz
_LINES = (".jsonl", ".ndjson")
DOCUMENTS: Final = "documents.jsonl"  # the member of an npz in which `export` writes the documents
_LONGEST: Final = 1 << 30  # bytes of a line or row: more than any document that a collection accepts
_PORTION: Final = 1 << 26  # bytes of an array in memory at a time


def _of_row(row: dict[str, Any], place: int, path: Path) -> One:
    """A row as a document, by the usual column names. A missing id becomes the file's name and the row's number."""
    vector = next((row.pop(key) for key in _VECTORS if row.get(key) is not None), None)
    if isinstance(vector, str):  # JSON text, as in dumps similar to CSV
        with suppress(ValueError):
            vector = json.loads(vector)
    if vector is None:
        raise bqstore.InvalidInputError(f"row {place} has no vector; its column is named {' or '.join(_VECTORS)}")
    id_ = next((row.pop(key) for key in _IDS if row.get(key) is not None), f"{path.name}:{place}")
    if isinstance(id_, bytes):
        id_ = id_.hex()
    return One(str(id_), *framework_keys.with_our_keys(*text_and_metadata(row)), vector)


def text_and_metadata(row: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The text and metadata of a row, by the usual column names."""
    text, rest = framework_keys.text_of(row, *_TEXTS)
    nested = given = rest.pop("metadata", None)
    if isinstance(given, str):  # JSON in a text column
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


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """All lines, including empty ones."""
    while line := file.readline(_LONGEST + 1):
        if len(line) > _LONGEST:
            raise damaged(path, f"it has a line of more than {_LONGEST:,} bytes")
        yield line


def recognizes_lines(path: Path) -> bool:
    """Whether the path is a file of JSON lines."""
    return path.suffix in _LINES and path.is_file()


def open_lines(path: Path, collection: str | None) -> Source:
    """Documents in JSON lines with the keys "id", "text", "metadata" and "vector", or other usual names for these."""

    def each() -> Iterator[One]:
        with regular(path).open("rb") as file:
            for place, line in enumerate(_lines(file, path)):
                if line.strip():
                    yield _of_row(_object(line, path, place), place, path)

    first = next(each(), None)
    with path.open("rb") as file:
        count = sum(1 for line in _lines(file, path) if line.strip())
    dim = 0 if first is None else dim_of(first)
    return Source("jsonl", path, "", count, dim, "cosine", lambda: portions(each(), dim))


def recognizes_arrays(path: Path) -> bool:
    """Whether the path is an npy or npz file."""
    return path.suffix in (".npy", ".npz") and path.is_file()


@dataclass(frozen=True)
class _Array:
    """An array of an npz, read some rows at a time; at once if it is in Fortran order (``by_rows`` False)."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_rows: bool

    def __iter__(self) -> Iterator[NDArray[Any]]:
        n, size = self.shape[0], self.dtype.itemsize * math.prod(self.shape[1:])
        if size > _LONGEST or (not self.by_rows and n * size > _LONGEST):
            what = f"a row of {size:,} bytes" if self.by_rows else "columns, not rows, and is too large to transpose"
            raise bqstore.InvalidInputError(f"{self.member} of {self.path} has {what}; at most {_LONGEST:,} are read")
        if not self.by_rows:
            with np.load(self.path, allow_pickle=False) as loaded:
                yield from loaded[self.member.removesuffix(".npy")]
            return
        at_once = max(1, min(AT_ONCE, _PORTION // max(1, size)))
        with _member(self.path, self.member) as file:
            _header(file)
            for first in range(0, n, at_once):
                some = min(at_once, n - first)
                data = file.read(some * size)
                if len(data) < some * size:
                    raise damaged(self.path, f"{self.member} ends before its {n:,} rows do")
                yield from np.ndarray((some, *self.shape[1:]), self.dtype, data)


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(regular(path)) as whole, whole.open(name) as file:
        yield file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype. Raises ValueError for anything but an array of plain values."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they hold a pickle")
    return shape, by_columns, dtype


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file by name, none of them loaded yet. Raises ValueError for arrays of Python objects."""
    if path.suffix == ".npy":
        return {"vectors": np.load(path, mmap_mode="r", allow_pickle=False)}
    found: dict[str, Any] = {}
    with zipfile.ZipFile(regular(path)) as whole:
        for name in whole.namelist():
            if name != DOCUMENTS:
                with whole.open(name) as file:
                    shape, by_columns, dtype = _header(file)
                found[name.removesuffix(".npy")] = _Array(path, name, shape, dtype, not by_columns or len(shape) < 2)
    return found


def open_arrays(path: Path, collection: str | None) -> Source:
    """Vectors of an npy file, with documents in a JSON lines file of the same name; or an npz with both."""
    arrays = _arrays(path)
    vectors = next((arrays.pop(key) for key in _VECTORS if key in arrays), None)
    if vectors is None:
        known = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
        raise bqstore.InvalidInputError(f"{path} has no vectors of shape (n, dim) named {_VECTORS}; it has {known}")
    shape = vectors.shape
    if len(shape) != 2 or vectors.dtype.kind not in "fiu" or (shape[0] and min(shape) < 1):
        raise bqstore.InvalidInputError(
            f"the vectors of {path} are {vectors.dtype} of shape {shape}; expected real numbers of (n, dim)"
        )
    n, dim = shape
    columns = {name: array for name, array in arrays.items() if array.shape[:1] == (n,)}
    exported = _are_ours(columns)

    def each() -> Iterator[One]:
        with _beside(path) as (lines, where):
            documents = (line for line in lines if line.strip())
            rows = zip(vectors, *columns.values(), strict=True)
            for place, (vector, *values) in enumerate(rows):
                row = {_SINGULAR.get(name, name): v.tolist() for name, v in zip(columns, values, strict=True)}
                if exported:
                    row = _object(row["document"], path, place)
                if where is not None:
                    line = next(documents, None)
                    if line is None:
                        raise damaged(path, f"{where} ends after {place:,} documents; there are {n:,} vectors")
                    row.update(_object(line, path, place))
                yield _of_row(row | {"vector": vector}, place, path)
            if next(documents, None) is not None:
                raise damaged(path, f"{where} has more documents than the {n:,} vectors")

    notes = [f"{name!r} of shape {a.shape} is left out" for name, a in arrays.items() if name not in columns]
    return Source("arrays", path, "", n, dim, "cosine", lambda: portions(each(), dim), notes)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Iterator[bytes], Path | str | None]]:
    """The JSON lines of the documents, and their file: beside an npy, or inside an npz written by `export`."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(regular(path)) as whole:
            if DOCUMENTS not in whole.namelist():
                yield iter(()), None
                return
            with whole.open(DOCUMENTS) as file:
                yield _lines(file, path), DOCUMENTS
        return
    beside = next((file for file in map(path.with_suffix, _LINES) if file.is_file()), None)
    if beside is None:
        yield iter(()), None
        return
    with beside.open("rb") as file:
        yield _lines(file, beside), beside


def _are_ours(columns: dict[str, Any]) -> bool:
    """Whether an older `export` wrote this npz: its documents are JSON objects of three keys, not plain texts."""
    if columns.keys() != {"documents"} or not columns["documents"].shape[0]:
        return False
    with suppress(ValueError, TypeError, RecursionError):
        first = json.loads(next(iter(columns["documents"])).tolist())
        return isinstance(first, dict) and first.keys() == {"id", "text", "metadata"}
    return False


def recognizes_arrow(path: Path) -> bool:
    """Whether the path is a Parquet or Arrow file."""
    return path.suffix in (".parquet", ".pq", ".arrow", ".feather") and path.is_file()


def _needs(library: str, what: str) -> bqstore.InvalidInputError:
    return bqstore.InvalidInputError(f"reading {what} needs {library}: pip install {library}")


def _from_arrow(kind: str, path: Path, name: str, count: int, batches: Callable[[], Any], distance: str) -> Source:
    """The rows of Arrow record batches."""

    def each() -> Iterator[One]:
        place = 0
        for batch in batches():
            for row in batch.to_pylist():
                # a null in a table means that the document lacks the key; nulls inside JSON text are kept
                yield _of_row({k: _without_nulls(v) for k, v in row.items() if v is not None}, place, path)
                place += 1

    first = next(each(), None)
    dim = 0 if first is None else dim_of(first)
    return Source(kind, path, name, count, dim, distance, lambda: portions(each(), dim))


def open_arrow(path: Path, collection: str | None) -> Source:
    """The rows of a Parquet or Arrow file, by the usual column names."""
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
    """Whether the path is a folder of LanceDB tables, or one table."""
    return path.is_dir() and (path.suffix == ".lance" or any(path.glob("*.lance")))


def open_lance(path: Path, collection: str | None) -> Source:
    """The rows of a LanceDB table."""
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
    return _from_arrow("lancedb", path, name, count, batches, _lance_distance(table))


def _lance_distance(table: Any) -> str:
    """The distance of the vector index; without an index, the default of LanceDB's searches."""
    for index in table.list_indices():
        if any(column in _VECTORS for column in index.columns):
            kind = getattr(table.index_stats(index.name), "distance_type", None)
            return {"cosine": "cosine", "dot": "dot"}.get(str(kind), "euclid")
    return "euclid"
