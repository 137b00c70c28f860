"""LlamaIndex: a query engine on bqstore. Needs no key and no network."""

import zlib

from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode

from llama_index.vector_stores.bqstore import BQVectorStore


class CountWords(MockEmbedding):
    """A stand-in without a model: your own goes here, such as OpenAIEmbedding()."""

    def _get_text_embedding(self, text: str) -> list[float]:
        places = [zlib.crc32(word.encode()) % self.embed_dim for word in text.lower().split()]
        return [float(places.count(place)) for place in range(self.embed_dim)]

    _get_query_embedding = _get_text_embedding


with BQVectorStore("llama-index-store") as store:  # a folder
    index = VectorStoreIndex.from_vector_store(store, embed_model=CountWords(embed_dim=256))
    texts = {"bits": "Bits are small and quick", "floats": "Floats are exact but large"}
    index.insert_nodes([TextNode(id_=name, text=text) for name, text in texts.items()])
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=1)  # repeats its prompt: your own model goes here
    answer = engine.query("what is exact")
    print(answer)
    print("from", [node.node_id for node in answer.source_nodes])
