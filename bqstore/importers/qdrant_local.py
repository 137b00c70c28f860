"""The folder of qdrant-client's local mode: collections described in JSON, points pickled in SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bqstore

from ..metadata import framework_keys
from .pickles import plain_values
from .source import One, Source, by_portions, chosen, damaged, database, portions, regular

_KNOWN = {
    (module, name): name
    for module in ("qdrant_client.http.models.models", "qdrant_client.models")
    for name in ("PointStruct", "SparseVector")
}
_DISTANCES = {"Cosine": "cosine", "Dot": "dot", "Euclid": "euclid"}


def recognizes(path: Path) -> bool:
    """Whether the path is a folder of qdrant-client's local mode."""
    return (path / "meta.json").is_file() and (path / "collection").is_dir()


def open_source(path: Path, collection: str | None) -> Source:
    """The points of a collection; "collection/vector" names one of several vectors."""
    meta = path / "meta.json"
    try:
        described = json.loads(regular(meta).read_bytes())["collections"]
        spaces = {
            name if not key else f"{name}/{key}": (name, key, space)
            for name, config in described.items()
            for key, space in _spaces(config.get("vectors") or {})
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(meta, repr(error)) from None
    wanted = chosen(spaces, collection, path)
    name, key, space = spaces[wanted]
    distance = _DISTANCES.get(str(space.get("distance")))
    if distance is None:
        raise bqstore.InvalidInputError(
            f"{wanted!r} has the distance {space.get('distance')!r}; expected one of {', '.join(_DISTANCES)}"
        )
    file = path / "collection" / name / "storage.sqlite"
    old = file.with_suffix(".dbm")
    if not file.is_file() and any(old.parent.glob(old.name + "*")):  # which file depends on Python's dbm
        moved = "open the folder once with qdrant-client 1.7, which moves them to SQLite, or " if old.is_file() else ""
        raise bqstore.InvalidInputError(
            f"{wanted!r} of {path} was written by a qdrant-client before 1.1.7, which kept points in {old}: {moved}"
            "export them as JSON lines with the version that wrote it (scroll with with_vectors=True)"
        )
    dim = space["size"]
    notes: list[str] = []

    def each() -> Iterator[One]:
        with database(file) as connection:
            points = "SELECT rowid, point FROM points WHERE rowid > ? ORDER BY rowid LIMIT ?"
            for _, data in by_portions(connection, points):
                point = plain_values(data, _KNOWN, file)
                vector = point.get("vector")
                vector = vector.get(key) if isinstance(vector, dict) else vector
                if vector is not None:
                    yield One(str(point["id"]), *framework_keys.of_payload(point.get("payload") or {}), vector)

    with database(file) as connection:
        points = connection.execute("SELECT count(*) FROM points").fetchone()[0]
    count = points if not key else sum(1 for _ in each())
    if count < points:
        notes.append(f"{points - count:,} points have no vector {key!r} and are left out")
    return Source("qdrant", path, wanted, count, dim, distance, lambda: portions(each(), dim), notes)


def _spaces(vectors: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, description) of each vector field but multivectors; an unnamed field has the name ""."""
    spaces = {"": vectors} if isinstance(vectors.get("size"), int) else vectors
    return [(key, space) for key, space in spaces.items() if not space.get("multivector_config")]
