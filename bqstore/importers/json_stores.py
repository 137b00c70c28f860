"""Stores that are JSON files: LlamaIndex's SimpleVectorStore with its docstore, LangChain's InMemoryVectorStore."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..metadata import framework_keys
from .source import One, Source, chosen, damaged, portions, regular

_VECTORS = "__vector_store.json"  # follows the namespace, "default" if none was given
_OLD_VECTORS = "vector_store.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(regular(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no JSON ({error})") from None
    if not isinstance(found, dict):
        raise damaged(path, "no JSON object")
    return found


def _spaces(path: Path) -> dict[str, Path]:
    """The vector files by namespace."""
    if path.is_file():
        return {"default": path} if path.name.endswith(_OLD_VECTORS) else {}
    found = {file.name[: -len(_VECTORS)]: file for file in sorted(path.glob("*" + _VECTORS))}
    if (path / _OLD_VECTORS).is_file():
        found["default"] = path / _OLD_VECTORS
    return found


def recognizes_llama_index(path: Path) -> bool:
    """Whether the path holds a persisted SimpleVectorStore of LlamaIndex."""
    return bool(_spaces(path))


def open_llama_index(path: Path, collection: str | None) -> Source:
    """The nodes of a persisted SimpleVectorStore; texts come from the docstore beside it."""
    spaces = _spaces(path)
    filled = [name for name, file in spaces.items() if _read(file).get("embedding_dict")]
    name = chosen(spaces if collection is not None or not filled else filled, collection, path)
    stored = _read(spaces[name])
    parts = [stored.get(key) or {} for key in ("embedding_dict", "metadata_dict", "text_id_to_ref_doc_id")]
    if not all(isinstance(each, dict) for each in parts):
        raise damaged(spaces[name], "its form is not that of SimpleVectorStore")
    vectors, metadatas, refs = parts
    docstore = spaces[name].parent / "docstore.json"
    nodes = _read(docstore).get("docstore/data") if docstore.is_file() else None
    nodes = nodes if isinstance(nodes, dict) else {}
    lost = len(vectors.keys() - nodes.keys())
    notes = [f"{lost:,} of {len(vectors):,} nodes have no text: it is not in {docstore}"] if lost else []

    def each() -> Iterator[One]:
        for id_, vector in vectors.items():
            flat = metadatas.get(id_)
            text, metadata = framework_keys.with_our_keys(None, flat if isinstance(flat, dict) else {})
            node = nodes.get(id_)
            if isinstance(node, dict):
                rest = {key: value for key, value in metadata.items() if key not in framework_keys.FLAT}
                text, metadata = framework_keys.with_node(text, node.get("__data__"), rest)
            if isinstance(refs.get(id_), str):
                metadata[framework_keys.REF] = refs[id_]
            yield One(id_, text, metadata, vector)

    dim = len(next(iter(vectors.values()))) if vectors else 0
    return Source("llama-index", path, name, len(vectors), dim, "cosine", lambda: portions(each(), dim), notes)


def recognizes_langchain(path: Path) -> bool:
    """Whether the path is a file written by `InMemoryVectorStore.dump`."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(4096)
    return begin.lstrip().startswith(b"{") and b'"vector"' in begin + path.read_bytes()


def open_langchain(path: Path, collection: str | None) -> Source:
    """The documents in a file written by `InMemoryVectorStore.dump`."""
    stored = _read(path)
    if not all(isinstance(each, dict) and isinstance(each.get("vector"), list) for each in stored.values()):
        raise damaged(path, "its form is not that of InMemoryVectorStore.dump")

    def each() -> Iterator[One]:
        for id_, document in stored.items():
            text, metadata = document.get("text"), document.get("metadata")
            text = text if isinstance(text, str) else None
            yield One(id_, *framework_keys.with_our_keys(text, metadata or {}), document["vector"])

    dim = len(next(iter(stored.values()))["vector"]) if stored else 0
    return Source("langchain-memory", path, "", len(stored), dim, "cosine", lambda: portions(each(), dim))
