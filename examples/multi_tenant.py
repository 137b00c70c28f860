"""Several tenants in one collection, kept apart by a filter; or each in a collection of its own. Needs no key."""

import zlib

import numpy as np

import bqstore


def embed(text: str) -> np.ndarray:
    """Count words: a stand-in without a model. Your own embedding model goes here."""
    vector = np.zeros(256, np.float32)
    for word in text.lower().split():
        vector[zlib.crc32(word.encode()) % 256] += 1
    return vector


class Tenant:
    """What one tenant may see and change: every call carries its filter, so that none can be forgotten."""

    def __init__(self, collection: bqstore.Collection, name: str) -> None:
        self._collection, self.name = collection, name

    def add(self, texts: dict[str, str]) -> None:
        """Add texts by id; the tenant's name is part of the id, so that no tenant can replace another's document."""
        self._collection.add(
            np.stack([embed(text) for text in texts.values()]),
            ids=[f"{self.name}/{id_}" for id_ in texts],
            texts=list(texts.values()),
            metadatas=[{"tenant": self.name}] * len(texts),
        )

    def search(self, question: str, k: int = 3) -> list[bqstore.Hit]:
        """The nearest of the tenant's own documents."""
        return self._collection.search(embed(question), k, filter={"tenant": self.name})

    def leave(self) -> int:
        """Delete all that the tenant has. After `Collection.compact` nothing of it is left in any file."""
        return self._collection.delete(filter={"tenant": self.name})


with bqstore.open("tenants-store") as col:  # a folder
    ada, bob = Tenant(col, "ada"), Tenant(col, "bob")
    ada.add({"plan": "the plan of ada", "notes": "notes of ada on bits"})
    bob.add({"plan": "the plan of bob"})
    for tenant in (ada, bob):
        print(tenant.name, [hit.id for hit in tenant.search("the plan")])
    print("documents by tenant:", col.facets("tenant"))
    print("deleted:", bob.leave(), "- bob now finds", bob.search("the plan"))
    col.compact()
