"""bqstore by itself: add documents, search them under a filter. Run it again: documents with these ids are replaced."""

import zlib

import numpy as np

import bqstore

TEXTS = {"bits": "Bits are small and quick", "floats": "Floats are exact but large", "cats": "Cats are quick"}


def embed(text: str) -> np.ndarray:
    """Count words: a stand-in without a model. Your own embedding model goes here."""
    vector = np.zeros(256, np.float32)
    for word in text.lower().split():
        vector[zlib.crc32(word.encode()) % 256] += 1
    return vector


with bqstore.open("core-store") as col:  # a folder
    vectors = np.stack([embed(text) for text in TEXTS.values()])
    metadatas = [{"topic": "numbers"}, {"topic": "numbers"}, {"topic": "animals"}]
    col.add(vectors, ids=list(TEXTS), texts=list(TEXTS.values()), metadatas=metadatas)

    for hit in col.search(embed("what is quick"), k=2, filter={"topic": "numbers"}):
        print(f"{hit.score:.2f} {hit.id}: {hit.text}")
