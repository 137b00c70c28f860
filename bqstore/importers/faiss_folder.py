"""LangChain's FAISS folder: ``index.faiss``, and the documents in a pickle beside it.

Flat indexes, LangChain's default, are read directly from the file; other kinds need the faiss library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import bqstore

from ..metadata import framework_keys
from .pickles import load, plain
from .source import F32, One, Source, chosen, damaged, portions, regular

_KNOWN = {
    **{
        (module, "InMemoryDocstore"): "docstore"
        for module in ("langchain_community.docstore.in_memory", "langchain.docstore.in_memory")
    },
    **{
        (module, "Document"): "document"
        for module in (
            *("langchain_core.documents.base", "langchain.schema", "langchain.schema.document"),
            *("langchain.docstore.document", "langchain_community.docstore.document"),
        )
    },
}
_DISTANCES = {0: "dot", 1: "euclid"}  # faiss's METRIC_INNER_PRODUCT and METRIC_L2
_HEADER = struct.Struct("<4siqqqBi")  # kind, dim, number of vectors, two unused numbers, trained, metric


def recognizes(path: Path) -> bool:
    """Whether the path is such a folder, or a ``.faiss`` file."""
    return bool(_files(path))


def _files(path: Path) -> dict[str, Path]:
    """The index files by name."""
    found = sorted(path.glob("*.faiss")) if path.is_dir() else [path]
    return {file.stem: file for file in found if file.suffix == ".faiss"}


def open_source(path: Path, collection: str | None) -> Source:
    """The documents of an index, in insertion order; "index" is LangChain's default name."""
    files = _files(path)
    file = files[chosen(files, "index" if collection is None and "index" in files else collection, path)]
    pickled = file.with_suffix(".pkl")
    try:
        data = regular(pickled).read_bytes()
        stored, names = load(data, _KNOWN, pickled)
    except FileNotFoundError:
        raise damaged(pickled, "it is missing, and it holds the documents") from None
    except (TypeError, ValueError):
        raise damaged(pickled, "it does not hold a docstore and the ids of its documents") from None
    found = plain(stored, len(data))
    documents = found.get("_dict") if isinstance(found, dict) else None
    if not isinstance(documents, dict) or not isinstance(names, dict):
        raise damaged(pickled, "it does not hold a docstore and the ids of its documents")
    vectors, distance, numbers = _vectors(file)
    notes = []
    missing = sum(1 for number in numbers if names.get(number) not in documents)
    if missing:
        notes.append(f"{missing:,} vectors without a document are left out")

    def each() -> Iterator[One]:
        for place, number in enumerate(numbers):
            document = documents.get(names.get(number))
            if isinstance(document, dict):
                yield _one(str(names[number]), document, vectors[place])

    dim = vectors.shape[1]
    return Source("faiss", path, "", len(vectors) - missing, dim, distance, lambda: portions(each(), dim), notes)


def _one(id_: str, document: dict[str, Any], vector: F32) -> One:
    text, metadata = document.get("page_content"), document.get("metadata") or {}
    text, metadata = framework_keys.with_our_keys(text if isinstance(text, str) else None, metadata)
    return One(id_, text, metadata, vector)


def _vectors(file: Path) -> tuple[F32, str, Sequence[int]]:
    """An index's vectors, float32 (n, dim), memory-mapped if it is flat; its distance; the number of each vector."""
    with regular(file).open("rb") as opened:
        begin = opened.read(_HEADER.size + 8)
    if len(begin) < _HEADER.size + 8 or begin[:4] not in (b"IxFI", b"IxF2", b"IxFl"):
        return _by_faiss(file)
    _, dim, n, _, _, _, metric = _HEADER.unpack_from(begin)
    (numbers,) = struct.unpack_from("<Q", begin, _HEADER.size)
    size = file.stat().st_size - len(begin)
    if metric not in _DISTANCES or dim < 1 or n < 0 or numbers != n * dim or size < 4 * numbers:
        raise damaged(file, f"its header states {n:,} vectors of {dim:,} dimensions, in {size:,} bytes")
    if n == 0:
        return np.zeros((0, dim), np.float32), _DISTANCES[metric], ()
    return np.memmap(file, "<f4", "r", len(begin), (n, dim)), _DISTANCES[metric], range(n)


def _by_faiss(file: Path) -> tuple[F32, str, Sequence[int]]:
    try:
        faiss: Any = import_module("faiss")
    except ImportError:
        raise bqstore.InvalidInputError(
            f"{file} is no flat index of faiss; other kinds need the faiss library: pip install faiss-cpu"
        ) from None
    try:
        whole = index = faiss.read_index(str(file))  # keep the reference: it owns the inner index
        numbers: Sequence[int] = range(index.ntotal)
        if isinstance(whole, faiss.IndexIDMap):
            index = faiss.downcast_index(whole.index)  # reconstructing from the wrapper crashes the process
            numbers = faiss.vector_to_array(whole.id_map).tolist()
        inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
        if hasattr(inner, "make_direct_map"):
            if "FastScan" in type(inner).__name__:  # reconstructing crashes the process
                raise damaged(file, f"vectors of an {type(inner).__name__} cannot be reconstructed")
            inner.make_direct_map()
        elif index.ntotal:
            index.reconstruct(0)  # raises if vectors are not kept; `reconstruct_n` would crash the process
        vectors = index.reconstruct_n(0, index.ntotal) if index.ntotal else np.zeros((0, index.d), np.float32)
    except RuntimeError as error:
        raise damaged(file, str(error).splitlines()[-1]) from None
    return vectors, _DISTANCES.get(index.metric_type, "euclid"), numbers
