"""LangChain: retrieve passages from bqstore and let a chat model answer from them. Needs no key and no network."""

import zlib

from langchain_core.embeddings import Embeddings
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel

from langchain_bqstore import BQVectorStore


class CountWords(Embeddings):
    """A stand-in without a model: your own goes here, such as OpenAIEmbeddings()."""

    def embed_query(self, text: str) -> list[float]:
        """Count the words of a text."""
        places = [zlib.crc32(word.encode()) % 256 for word in text.lower().split()]
        return [float(places.count(place)) for place in range(256)]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Count the words of each text."""
        return [self.embed_query(text) for text in texts]


with BQVectorStore(CountWords(), path="langchain-rag-store") as store:  # a folder
    store.add_texts(["Bits are small and quick", "Floats are exact but large"], ids=["bits", "floats"])
    question = "what is exact"
    (passage,) = store.as_retriever(search_kwargs={"k": 1}).invoke(question)
    prompt = f"Answer from this: {passage.page_content}\nQuestion: {question}"
    print(ParrotFakeChatModel().invoke(prompt).content)  # says what it hears: your own chat model goes here
