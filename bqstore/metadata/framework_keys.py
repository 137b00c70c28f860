"""What LangChain and LlamaIndex write into the metadata of other stores, as our adapters keep it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .to_json import PRIVATE_PREFIX, REF_DOC_ID_KEY

REF = REF_DOC_ID_KEY
NODE = PRIVATE_PREFIX + "node"  # as our LlamaIndex adapter has it
FLAT = ("_node_content", "_node_type", "document_id", "doc_id", "ref_doc_id")  # of LlamaIndex's node_to_metadata_dict
_APART = ("id_", "text", "metadata", "embedding")  # of a node; columns of their own
_OLD = ("doc_id", "extra_info", "node_info", "doc_hash")  # of nodes before LlamaIndex 0.7
_SOURCE = "1"  # the relationship of a node to the document it comes from


def with_our_keys(text: str | None, metadata: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Text and metadata of a document, with what LlamaIndex put into the metadata under our adapter's key."""
    content = metadata.get("_node_content")
    if not isinstance(content, str):
        return text, dict(metadata)
    try:
        node = json.loads(content)
    except (ValueError, RecursionError):
        return text, dict(metadata)
    if not isinstance(node, dict) or "class_name" not in node:  # somebody's own key of that name
        return text, dict(metadata)
    return with_node(text, node, {key: value for key, value in metadata.items() if key not in FLAT})


def with_node(text: str | None, node: object, metadata: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Text and metadata of a node of LlamaIndex, a dictionary as `to_dict` makes it."""
    if not isinstance(node, dict):
        return text, dict(metadata)
    if "extra_info" in node:
        node = _renewed(node)
    own = node.get("metadata")
    resource = node.get("text_resource")
    for found in (node.get("text"), resource.get("text") if isinstance(resource, dict) else None):
        text = found if not text and isinstance(found, str) else text
    kept = {key: value for key, value in node.items() if key not in _APART}
    if isinstance(resource, dict):
        kept["text_resource"] = {key: value for key, value in resource.items() if key != "text"}
    relationships = node.get("relationships")
    source = relationships.get(_SOURCE) if isinstance(relationships, dict) else None
    ref = source.get("node_id") if isinstance(source, dict) else None
    out = {**metadata, **(own if isinstance(own, dict) else {}), NODE: kept}
    ref = ref if isinstance(ref, str) else node.get("id_")
    return text, out if not isinstance(ref, str) else {**out, REF: ref}


def _renewed(node: dict[str, Any]) -> dict[str, Any]:
    """A node of LlamaIndex before 0.7 in the newer form, in which related nodes are records, not ids."""

    def related(given: Any) -> Any:
        return [related(each) for each in given] if isinstance(given, list) else {"node_id": given}

    old = node.get("relationships")
    relationships = {key: related(each) for key, each in old.items()} if isinstance(old, dict) else {}
    kept = {key: value for key, value in node.items() if key not in _OLD}
    renewed = {"id_": node.get("doc_id"), "metadata": node["extra_info"], "relationships": relationships}
    return kept | renewed | {"class_name": "TextNode"}


def text_of(metadata: Mapping[str, Any], *keys: str) -> tuple[str | None, dict[str, Any]]:
    """The text under the first of these keys that exists, and the rest of the metadata."""
    rest = dict(metadata)
    for key in keys:
        if key in rest and (rest[key] is None or isinstance(rest[key], str)):
            return rest.pop(key), rest
    return None, rest


def of_payload(payload: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Text and metadata of a point of Qdrant: as langchain-qdrant has them, as LlamaIndex has them, else as it is."""
    text, rest = text_of(payload, "page_content")
    if text is not None and isinstance(rest.get("metadata"), dict):
        nested = rest.pop("metadata")
        return text, {**rest, **nested}
    text, rest = with_our_keys(text, rest)
    if text is None:
        text, rest = text_of(rest, "text", "document")
    return text, rest
