"""Embed a stream of any length with OpenAI and store it, in the memory of a few batches; interrupted, it goes on.

Needs OPENAI_API_KEY, and OPENAI_BASE_URL for another server that speaks the same API. A text is a line:
`cat lines.txt | python streaming_ingest.py`.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from itertools import islice

import bqstore


def texts() -> Iterator[str]:
    """The lines of stdin, or three of our own where it is a terminal or empty."""
    given = [] if sys.stdin is None or sys.stdin.isatty() else (line.strip() for line in sys.stdin)
    empty = True
    for text in filter(None, given):
        empty = False
        yield text
    if empty:
        yield from ("Bits are small.", "Floats are exact.", "Cats purr.")


def id_of(text: str) -> str:
    """The same text has the same id in each run, so that a second run replaces it and does not add it twice."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


if not os.environ.get("OPENAI_API_KEY"):
    sys.exit("skipped: set OPENAI_API_KEY to embed with OpenAI")

with bqstore.OpenAIEmbedder("text-embedding-3-small") as embedder, bqstore.open("streamed-store") as col:
    stream = texts()
    while batch := list(islice(stream, 10_000)):  # add_to cuts it into requests, and stores each when it is answered
        embedder.add_to(col, batch, ids=[id_of(text) for text in batch])
    print(f"{len(col)} texts in the collection; {embedder.usage.cached} came from the cache, which costs nothing")
    print(embedder.search(col, "Cats purr.", k=1)[0].text)
