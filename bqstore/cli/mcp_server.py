"""`bqstore mcp`: a collection as a server of the Model Context Protocol, on stdin and stdout.

Clients get tools to search, to read, and to list the fields for filters; with --write, one to add documents. Several
servers, one per client, can share a folder. Only the protocol is written to stdout.
"""

from collections.abc import Callable
from typing import Annotated, Any

import typer

import bqstore

from .console import emit, errors_reported, existing_collection
from .embedders import KINDS, embedder_of
from .options import Name, Store, app
from .searching import EmbedderOption, hit_as_json

Object = dict[str, Any]
_SAMPLE = 1000  # documents whose metadata is read to find fields
_VALUES = 20  # values listed per field
_FILTERS = (
    'A filter is an object such as {"lang": "en", "year": {"$gte": 2020}}; operators: $eq $ne $gt $gte $lt $lte $in '
    "$nin $exists $like $contains $and $or $not."
)


class Tools:
    """The tools that clients can call. They raise bqstore's errors; `serve` passes the messages on."""

    def __init__(self, collection: "bqstore.Collection", embedder: Any = None) -> None:
        self._collection, self._embedder = collection, embedder
        info = collection.info()
        self._has_words = info.text_index is not None
        if embedder is None and not self._has_words:
            named = f" ({info.embedding_model})" if info.embedding_model else ""
            raise bqstore.InvalidInputError(
                f"a server embeds questions with the model that embedded the documents{named}: name it by --embedder, "
                f"which takes {KINDS}; a collection with a text index needs none"
            )
        if embedder is not None:
            collection.check_model(embedder.model, embedder.dim)

    def search(self, query: str, k: int = 5, filter: Object | None = None) -> Object:
        """Find the k documents nearest to a question, by meaning and by its words where there is an index of words."""
        vector = None if self._embedder is None else self._embedder.embed_query(query)
        settings: dict[str, Any] = {"text": query} if self._has_words else {}
        hits = self._collection.search(vector, k, filter=filter, **settings)
        return {"hits": [hit_as_json(hit) for hit in hits]}

    def get(self, ids: list[str]) -> Object:
        """Read documents by their ids; ids that do not exist are named."""
        found = self._collection.get(ids)
        there = {each.id for each in found}
        documents = [{"id": each.id, "text": each.text, "metadata": each.metadata} for each in found]
        return {"documents": documents, "missing": [id_ for id_ in ids if id_ not in there]}

    def list_filters(self, filter: Object | None = None) -> Object:
        """List the metadata fields that searches can be filtered by, with the most frequent values of each."""
        names: dict[str, None] = {}
        for each in self._collection.scroll(filter, limit=_SAMPLE):
            names |= dict.fromkeys(name for name in each.metadata if not name.startswith(bqstore.PRIVATE_PREFIX))
        fields = {}
        for name in names:
            facets = self._collection.facets(name, filter)
            some = [{"value": value, "documents": count} for value, count in facets[:_VALUES]]
            fields[name] = {"values": some, "different": len(facets)}
        return {"documents": self._collection.count(filter), "fields": fields}

    def add(self, texts: list[str], ids: list[str] | None = None, metadatas: list[Object] | None = None) -> Object:
        """Embed texts and add them; documents with these ids are replaced."""
        if self._embedder is None:
            raise bqstore.InvalidInputError(f"texts cannot be added without their model: --embedder takes {KINDS}")
        vectors = self._embedder.embed(texts)
        self._collection.check_model(self._embedder.model, vectors.shape[1], remember=True, writing=True)
        return {"ids": list(self._collection.add(vectors, ids, texts, metadatas))}


def serve(tools: Tools, name: str, write: bool) -> Any:
    """A server of the official package with these tools. Raises ImportError."""
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    server = MCPServer("bqstore", instructions=f"Documents of the collection {name!r}. {_FILTERS}")
    for call, description in described(tools, write).items():
        server.tool(description=description)(_told(call, ToolError))
    return server


def described(tools: Tools, write: bool) -> dict[Callable[..., Object], str]:
    """The tools that clients see, with their descriptions."""
    calls: list[Callable[..., Object]] = [tools.search, tools.get, tools.list_filters, *([tools.add] if write else [])]
    return {
        call: f"{call.__doc__} {_FILTERS}" if call in (tools.search, tools.list_filters) else str(call.__doc__)
        for call in calls
    }


def _told(call: Callable[..., Object], tool_error: type[Exception]) -> Callable[..., Object]:
    """Wrap a call so that clients see the messages of its errors: the package hides those of other exceptions."""
    from functools import wraps

    @wraps(call)
    def told(*arguments: Any, **keywords: Any) -> Object:
        try:
            return call(*arguments, **keywords)
        except (bqstore.BqstoreError, OSError) as error:
            raise tool_error(str(error)) from error

    return told


@app.command()
def mcp(
    path: Store,
    collection: Name = None,
    embedder: EmbedderOption = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="A server that speaks OpenAI's protocol.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Let clients add and replace documents.")] = False,
    show_tools: Annotated[bool, typer.Option("--tools", help="Print the tools as JSON and end.")] = False,
) -> None:
    """Serve a collection to clients of the Model Context Protocol, on stdin and stdout, until the client ends it.

    For a client's settings: the command is bqstore, its arguments are mcp, the folder of the store and the options.
    """
    with (
        errors_reported(),
        existing_collection(path, collection, read_only=not write) as col,
        embedder_of(col, path, embedder, base_url) as model,
    ):
        tools = Tools(col, model)
        if show_tools:
            emit({call.__name__: description for call, description in described(tools, write).items()})
            return
        try:
            server = serve(tools, col.info().collection, write)
        except ImportError:
            raise bqstore.InvalidInputError("bqstore mcp needs mcp, version 2 or newer: pip install 'mcp>=2'") from None
        server.run("stdio")
