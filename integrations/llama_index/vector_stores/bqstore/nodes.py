"""Conversions between LlamaIndex's nodes and rows of a collection.

The text goes into the text column and the metadata stays as the user gave it. Everything else of a node (relationships,
templates, excluded keys, its class) goes under one private metadata key, so that filters and other frameworks see only
the user's own metadata, and nothing is stored twice.
"""

from collections.abc import Collection, Generator, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeWithScore,
    TextNode,
)
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

import bqstore

T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]  # of `bqstore.in_steps`
NODE_KEY: Final = bqstore.PRIVATE_PREFIX + "node"
_STORED_APART: Final = {"id_", "text", "metadata", "embedding"}
_RESOURCES: Final = ("text_resource", "image_resource", "audio_resource", "video_resource")
_CLASSES: Final[dict[str, type[BaseNode]]] = {
    cls.class_name(): cls for cls in (TextNode, ImageNode, IndexNode, Node, Document, ImageDocument)
}


def nodes_in(given: Any) -> list[BaseNode]:
    """Return the nodes of any iterable, if they are nodes with embeddings; else raise InvalidInputError."""
    if isinstance(given, (BaseNode, str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise bqstore.InvalidInputError(f"nodes is of type {type(given).__name__}; expected a list of nodes: [node]")
    nodes = list(given)
    for i, node in enumerate(nodes):
        if not isinstance(node, BaseNode):
            hint = "its .node" if isinstance(node, NodeWithScore) else "a TextNode, or a node of another class"
            raise bqstore.InvalidInputError(f"node {i} is of type {type(node).__name__}; expected {hint}")
        if node.embedding is None:
            raise bqstore.InvalidInputError(
                f"node {node.node_id!r} has no embedding; add it through a VectorStoreIndex or an "
                "IngestionPipeline with an embedding model"
            )
    return nodes


def check_ids(given: object) -> None:
    """Raise InvalidInputError for what is no list of ids: a text, or a filter in the place of the ids."""
    first = given[0] if isinstance(given, list) and given else given
    if isinstance(first, (MetadataFilter, MetadataFilters, Mapping)) or isinstance(given, str):
        hint = "" if isinstance(given, str) else "; filters go into filters="
        raise bqstore.InvalidInputError(f"node_ids is a {type(given).__name__}; expected a list of ids{hint}")


def row_of(node: BaseNode) -> tuple[str | None, dict[str, Any]]:
    """Return the text of a node and the metadata to store, private keys included.

    Raises InvalidInputError if the node cannot be written as JSON.
    """
    bqstore.refuse_private_keys(node.metadata, f"the metadata of node {node.node_id!r}")
    try:
        content = node.model_dump(mode="json", exclude=_STORED_APART)
    except ValueError:  # not chained: its message may quote the node's text
        raise bqstore.InvalidInputError(
            f"node {node.node_id!r} of type {type(node).__name__} cannot be written as JSON: "
            "look for objects in its relationships, or in the obj of an IndexNode"
        ) from None
    text = _take_text(node, content)
    # as LlamaIndex does where it counts documents: a node without a source document is its own
    source = node.ref_doc_id or node.node_id
    return text, {**node.metadata, NODE_KEY: content, bqstore.REF_DOC_ID_KEY: source}


def _take_text(node: BaseNode, content: dict[str, Any]) -> str | None:
    """Return the node's text and drop it from ``content``; add the bytes of media, which LlamaIndex leaves out."""
    if isinstance(node, TextNode):
        return node.text
    if not isinstance(node, Node):
        return node.get_content(metadata_mode=MetadataMode.NONE)
    for name in _RESOURCES:
        resource = getattr(node, name)
        if resource is not None and resource.data is not None:
            content[name]["data"] = resource.data.decode("ascii")  # base64 already
    return None if node.text_resource is None else content["text_resource"].pop("text")


def node_of(found: bqstore.Hit | bqstore.Record, fields: Collection[str] | None = None) -> BaseNode:
    """Return the node of a row, with some fields of its metadata; a TextNode if another framework wrote the row."""
    metadata = found.metadata
    public = {key: value for key, value in metadata.items() if not key.startswith(bqstore.PRIVATE_PREFIX)}
    if fields is not None:
        public = {key: value for key, value in public.items() if key in fields}
    content: dict[str, Any] = metadata.get(NODE_KEY, {})
    is_node = "text_resource" in content
    cls = _CLASSES.get(content.pop("class_name", ""), Node if is_node else TextNode)
    if not is_node:
        content["text"] = found.text or ""
    elif content["text_resource"] is not None:
        content["text_resource"]["text"] = found.text
    if found.vector is not None:
        content["embedding"] = found.vector.tolist()
    content |= {"id_": found.id, "metadata": public}
    return cls.from_dict(content) if cls is IndexNode else cls(**content)  # of the others it does no more, on a copy
