"""A web service with several workers on one folder: each process has it open, and all may write. Needs no key.

`pip install fastapi uvicorn`, then `uvicorn fastapi_service:app --workers 4` in this folder.
"""

import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

import bqstore

STORE = "service-store"  # a folder


def embed(text: str) -> list[float]:
    """Count words: a stand-in without a model. Your own embedding model goes here."""
    places = [zlib.crc32(word.encode()) % 256 for word in text.lower().split()]
    return [float(places.count(place)) + 0.01 for place in range(256)]


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """Open the collection in each worker, after the fork; what others commit is seen by the next search."""
    with bqstore.open(STORE) as app.state.collection:
        yield


app = FastAPI(lifespan=opened)


class Document(BaseModel):
    """What is stored."""

    text: str = Field(min_length=1)
    metadata: dict[str, Any] = {}


@app.put("/documents/{id_}")
async def put(id_: str, document: Document, request: Request) -> dict[str, str]:
    """Store a document; answered when it is on the disk."""
    vector = embed(document.text)
    col = request.app.state.collection
    await bqstore.writing(col.add, [vector], [id_], [document.text], [document.metadata])  # beside the event loop
    return {"id": id_}


@app.get("/search")
async def search(q: str, request: Request, k: int = 5, lang: str | None = None) -> list[dict[str, Any]]:
    """The nearest documents; only those in a language, if one is given."""
    wanted = None if lang is None else {"lang": lang}
    try:
        hits = await bqstore.reading(request.app.state.collection.search, embed(q), k, filter=wanted)
    except bqstore.InvalidInputError as error:
        raise HTTPException(422, str(error)) from None
    return [{"id": hit.id, "score": round(hit.score, 3), "text": hit.text, "metadata": hit.metadata} for hit in hits]


@app.delete("/documents/{id_}")
async def delete(id_: str, request: Request) -> dict[str, int]:
    """Delete a document."""
    return {"deleted": await bqstore.writing(request.app.state.collection.delete, [id_])}
