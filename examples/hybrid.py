"""Words and meaning at once: words find names and numbers that a model does not know. Needs no key and no network."""

import zlib

import numpy as np

import bqstore

TEXTS = {
    "code": "code E1042: the motor stopped and was started again",
    "leak": "the pump leaks water",
    "noise": "a noise in the motor",
}


def embed(text: str) -> np.ndarray:
    """Count the words that a small model might know: a stand-in. Your own embedding model goes here."""
    vector = np.full(256, 0.01, np.float32)
    for word in text.lower().split():
        if word.isalpha():
            vector[zlib.crc32(word.encode()) % 256] += 1
    return vector


with bqstore.open("hybrid-store", text_index=True) as col:  # a folder, with an index of the words of texts
    col.add(np.stack([embed(text) for text in TEXTS.values()]), ids=list(TEXTS), texts=list(TEXTS.values()))
    question = "motor E1042"
    print("by meaning:", [hit.id for hit in col.search(embed(question), k=1)])
    print("by words:  ", [hit.id for hit in col.search(text=question, k=1)])
    for hit in col.search(embed(question), k=2, text=question, alpha=0.3):  # alpha: the weight of the meaning
        print(f"by both:    {hit.id} {hit.score:.2f}, found by {' and '.join(sorted(hit.scores))}")
