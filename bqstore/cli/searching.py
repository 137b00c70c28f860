"""`bqstore search`: by the meaning of a text, by its words, by a vector from a file, or by a filter only."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import bqstore

from . import tables
from .console import console, emit, errors_reported, existing_collection, note, say, show
from .embedders import KINDS, embedder_of
from .files import read_vector
from .formatting import printable
from .options import Json, K, Name, Store, app

MODES = ("vector", "text", "hybrid")
_LINES = 3  # lines of text shown per hit

FilterOption = Annotated[
    str | None,
    typer.Option(
        "--filter", metavar="JSON", help='Which documents may be found, such as \'{"lang": "en"}\': docs/filters.md.'
    ),
]
EmbedderOption = Annotated[
    str | None,
    typer.Option("--embedder", metavar="NAME", envvar="BQSTORE_EMBEDDER", help=f"What embeds the text: {KINDS}."),
]


@app.command()
def search(
    path: Store,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to search for.")] = None,
    collection: Name = None,
    k: K = 10,
    mode: Annotated[
        str | None, typer.Option(metavar="|".join(MODES), help="By meaning, by words, or by both; else by meaning.")
    ] = None,
    embedder: EmbedderOption = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="A server that speaks OpenAI's protocol.")] = None,
    vector: Annotated[Path | None, typer.Option(metavar="FILE.npy", help="A vector to search for, not a text.")] = None,
    filter_: FilterOption = None,
    threshold: Annotated[float | None, typer.Option(metavar="NUMBER", help="The least score of a hit.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Score every document by its original vector.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say how the search was done.")] = False,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="Leave out damaged documents, and list their ids.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the documents nearest to a text or a vector, or those that have its words, or that match a filter.

    A text is embedded by the model that embedded the documents (--embedder), or searched by its words (--mode text).
    """
    with errors_reported():
        if mode is not None and mode not in MODES:
            raise bqstore.InvalidInputError(f"--mode is {mode!r}; expected one of {', '.join(MODES)}")
        wanted = read_filter(filter_)
        given = None if vector is None else read_vector(vector)
        if text is None and given is None and wanted is None:
            raise bqstore.InvalidInputError("there is nothing to search for: give a TEXT, --vector or --filter")
        settings: dict[str, Any] = {"filter": wanted, "exact": exact, "score_threshold": threshold, "explain": explain}
        with existing_collection(path, collection, read_only=True) as col:
            by_words = mode in ("text", "hybrid") or (mode is None and text is not None and given is not None)
            if by_words:
                settings |= {"text": text, "mode": mode}
            if text is not None and given is None and mode != "text":
                given = _embedded(col, path, text, embedder, base_url)
            hits = col.search(given, k, **settings, allow_damaged=allow_damaged)
        if isinstance(hits, (bqstore.PartialHits, bqstore.ExplainedHits)) and hits.left_out:
            named = ", ".join(each or "one without an id" for each in hits.left_out)
            note(f"bqstore: damaged documents were left out: {named}")
        how = hits.explanation if isinstance(hits, bqstore.ExplainedHits) else None
        if as_json:
            found: dict[str, Any] = {"hits": [hit_as_json(hit) for hit in hits]}
            emit(found if how is None else {**found, "explanation": asdict(how)})
            return
        for place, hit in enumerate(hits, 1):
            tell(place, hit)
        if not hits:
            say("Nothing was found.")
        if how is not None:
            show(tables.explanation(how))


def read_filter(given: str | None) -> dict[str, Any] | None:
    """Parse a filter from JSON. Raises InvalidInputError; `Collection.search` checks its fields and operators."""
    if given is None:
        return None
    try:
        found = json.loads(given)
    except ValueError as error:
        raise bqstore.InvalidInputError(
            f'--filter is no JSON: {error}; expected such as \'{{"lang": "en"}}\''
        ) from None
    if not isinstance(found, dict):
        raise bqstore.InvalidInputError(f'--filter is {given}; expected an object, such as \'{{"lang": "en"}}\'')
    return found


def hit_as_json(hit: bqstore.Hit) -> dict[str, Any]:
    """A hit as a dictionary, without its vector."""
    out = {"id": hit.id, "score": hit.score, "text": hit.text, "metadata": hit.metadata}
    return out if hit.scores is None else {**out, "scores": hit.scores}


def _embedded(col: "bqstore.Collection", path: str, text: str, embedder: str | None, base_url: str | None) -> Any:
    with embedder_of(col, path, embedder, base_url) as model:
        if model is None:
            remembered = col.info().embedding_model
            named = f" ({remembered})" if remembered else ""
            raise bqstore.InvalidInputError(
                f"a text is embedded by the model that embedded the documents{named}: name it by --embedder, which "
                f"takes {KINDS}; or search for its words by --mode text"
            )
        col.check_model(model.model, model.dim)
        return model.embed_query(text)


def tell(place: int, hit: bqstore.Hit) -> None:
    """Print a hit in a few lines."""
    say(f"{place}. {hit.score:.4g}  {hit.id}")
    width = max(20, console().width - 3)
    lines = textwrap.wrap(printable(" ".join((hit.text or "").split())), width, max_lines=_LINES, placeholder=" ...")
    for line in lines:
        say(f"   {line}")
    if hit.metadata:
        say(f"   {json.dumps(hit.metadata, ensure_ascii=False, default=str)}")
