"""An embedder whose texts are their own vectors: ``"1 0 -2"`` is (1, 0, -2). It counts what it is asked."""

import threading

from langchain_core.embeddings import Embeddings


class Spelled(Embeddings):
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.threads: set[int] = set()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._spelled("documents", texts)

    def embed_query(self, text: str) -> list[float]:
        return self._spelled("query", [text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._spelled("adocuments", texts)

    async def aembed_query(self, text: str) -> list[float]:
        return self._spelled("aquery", [text])[0]

    def _spelled(self, call: str, texts: list[str]) -> list[list[float]]:
        self.calls.append((call, len(texts)))
        self.threads.add(threading.get_ident())
        return [[float(part) for part in text.split()] for text in texts]
