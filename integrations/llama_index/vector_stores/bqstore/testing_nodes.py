"""What `testing.VectorStoreTests` puts into a store and asks of it, and what is right: nodes, filters, the oracle."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    SimpleVectorStore,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

DIM: Final = 16
VERSION: Final = tuple(int(part) for part in re.findall(r"\d+", version("llama-index-core"))[:3])
_SPACE: Final = uuid.UUID(int=5)
_YEARS: Final = [2019, 2020, 2021, 2021, 2022, 2023]
_LANGS: Final = ["en", "de", "fr", "en"]


def node_id(i: int) -> str:
    """The id of the i-th node: a UUID, which every store takes."""
    return str(uuid.uuid5(_SPACE, str(i)))


def embedding(seed: int) -> list[float]:
    """A vector of length 1."""
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return [float(value) for value in vector / np.linalg.norm(vector)]


def node(i: int, source: str | None = None, **metadata: Any) -> TextNode:
    """The i-th node, with these metadata."""
    relationships = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)} if source else {}
    return TextNode(
        id_=node_id(i), text=f"text {i}", metadata=metadata, embedding=embedding(i), relationships=relationships
    )


def plain_nodes() -> list[TextNode]:
    """Twelve nodes of three documents, with metadata of plain values; the first has all of them, others lack some."""
    out = []
    for i in range(12):
        metadata: dict[str, Any] = {"n": i, "lang": _LANGS[i % 4], "title": f"Title {'ABC'[i % 3]} of {i}"}
        metadata |= {"year": _YEARS[i % 6]} if i % 5 != 4 else {}
        metadata |= {"price": i / 4, "draft": i % 2 == 0} if i % 4 != 3 else {}
        out.append(node(i, f"doc-{i % 3}", **metadata))
    return out


def tagged_nodes() -> list[TextNode]:
    """Nodes with lists in their metadata."""
    tags = [["x"], ["x", "y"], ["y", "z"], [], ["x", "y", "z"]]
    return [node(20 + i, "doc-t", tags=each) for i, each in enumerate(tags)] + [node(25, "doc-t", other=1)]


def where(*filters: tuple[str, str, Any] | MetadataFilters, condition: str = "and") -> MetadataFilters:
    """Filters from (key, operator, value)."""
    made = [
        each
        if isinstance(each, MetadataFilters)
        else MetadataFilter(key=each[0], operator=FilterOperator(each[1]), value=each[2])
        for each in filters
    ]
    return MetadataFilters(filters=made, condition=FilterCondition(condition))


def expected(filters: MetadataFilters, nodes: Sequence[BaseNode]) -> set[str]:
    """The ids that match: SimpleVectorStore's, and its answers put together where filters are nested."""
    everything = {each.node_id for each in nodes}
    parts = []
    for each in filters.filters:
        if isinstance(each, MetadataFilters):
            parts.append(expected(each, nodes))
            continue
        simple = SimpleVectorStore()
        simple.add(nodes)
        asked = VectorStoreQuery(embedding(0), similarity_top_k=99, filters=MetadataFilters(filters=[each]))
        parts.append(set(simple.query(asked).ids or []))
    if filters.condition == FilterCondition.OR:
        return set().union(*parts)
    if filters.condition == FilterCondition.NOT:
        return everything - set().union(*parts)
    return everything.intersection(*parts)


FILTERS: Final = {
    "eq-string": where(("lang", "==", "en")),
    "eq-integer": where(("year", "==", 2021)),
    "eq-float": where(("price", "==", 1.5)),
    "eq-nothing": where(("lang", "==", "none")),
    "eq-missing-key": where(("nowhere", "==", "x")),
    "ne-string": where(("lang", "!=", "en")),
    "ne-integer-or-missing": where(("year", "!=", 2021)),
    "gt": where(("year", ">", 2020)),
    "gte": where(("year", ">=", 2021)),
    "lt": where(("price", "<", 1.5)),
    "lte": where(("price", "<=", 1.5)),
    "in-strings": where(("lang", "in", ["de", "fr"])),
    "in-integers": where(("year", "in", [2019, 2023])),
    "nin-strings": where(("lang", "nin", ["de", "fr"])),
    "nin-integers-or-missing": where(("year", "nin", [2019, 2023])),
    "text-match": where(("title", "text_match", "Title A")),
    "text-match-insensitive": where(("title", "text_match_insensitive", "title a")),
    "is-empty": where(("year", "is_empty", None)),
    "and": where(("lang", "==", "en"), ("year", ">", 2020)),
    "or": where(("lang", "==", "de"), ("year", "<", 2020), condition="or"),
    "not": where(("lang", "==", "en"), ("year", "==", 2022), condition="not"),
}
# the version since which LlamaIndex's own store means this by a filter: it refused it, or left out what has no such key
SINCE: Final = {
    **dict.fromkeys(("text-match-insensitive", "not"), (0, 14, 16)),
    **dict.fromkeys(("ne-integer-or-missing", "nin-integers-or-missing"), (0, 14, 23)),
}
TAG_FILTERS: Final = {
    "contains": where(("tags", "contains", "x")),
    "any": where(("tags", "any", ["x", "z"])),
    "all": where(("tags", "all", ["x", "y"])),
    "is-empty": where(("tags", "is_empty", None)),
}
NESTED: Final = {
    "or-in-and": where(where(("lang", "==", "de"), ("lang", "==", "fr"), condition="or"), ("year", ">=", 2021)),
    "and-in-or": where(where(("lang", "==", "en"), ("year", ">", 2021)), ("n", "==", 1), condition="or"),
    "not-in-and": where(where(("lang", "==", "en"), condition="not"), ("n", "<", 8)),
    "three-deep": where(where(where(("n", "<", 6), ("n", ">", 2)), ("n", "==", 9), condition="or"), ("n", "!=", 4)),
}


def ids_of(result: VectorStoreQueryResult) -> list[str]:
    """The ids of what was found, from a store that returns nodes, or ids, or both; they must agree."""
    ids = None if result.ids is None else list(result.ids)
    if result.nodes is not None:
        found = [each.node_id for each in result.nodes]
        assert ids is None or ids == found
        ids = found
    assert ids is not None, "neither ids nor nodes"
    assert result.similarities is None or len(result.similarities) == len(ids)
    return ids


def alike(one: BaseNode, two: BaseNode) -> bool:
    """Whether nodes are the same but for their embeddings."""
    shown = [each.model_dump(exclude={"embedding"}) for each in (one, two)]
    return type(one) is type(two) and shown[0] == shown[1]
