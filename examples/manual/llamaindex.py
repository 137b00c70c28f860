"""The LlamaIndex side: a query engine on the folder that LangChain wrote, with a language model if there is a key."""

from collections.abc import Iterator
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText

from bqstore import Embedder
from llama_index.vector_stores.bqstore import BQVectorStore, EmbedderEmbedding


class OpenAIModel(CustomLLM):
    """A chat model of OpenAI, called through the ``openai`` package.

    LlamaIndex has a package for this, but it requires ``openai`` below version 3.
    """

    model: str

    @property
    def metadata(self) -> LLMMetadata:
        """Describe the model to the query engine."""
        return LLMMetadata(model_name=self.model, context_window=16_000, num_output=400)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the model's answer to ``prompt``."""
        import openai

        try:
            with openai.OpenAI() as client:
                asked = [{"role": "user", "content": prompt}]
                answer = client.chat.completions.create(model=self.model, messages=asked)
        except openai.OpenAIError as error:  # the passages found are worth showing without it
            return CompletionResponse(text=f"(none: {self.model} refused, {type(error).__name__})")
        return CompletionResponse(text=answer.choices[0].message.content or "")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Iterator[CompletionResponse]:
        """Return the answer in one piece."""
        yield self.complete(prompt, formatted)


def query_engine(store: BQVectorStore, embedder: Embedder, k: int, llm: str | None) -> BaseQueryEngine:
    """Return an engine that finds ``k`` passages and, if a language model is named, has it answer from them."""
    index = VectorStoreIndex.from_vector_store(store, embed_model=EmbedderEmbedding(embedder))
    if llm is not None:
        return index.as_query_engine(llm=OpenAIModel(model=llm), similarity_top_k=k)
    # LlamaIndex wants a model even where none is called: the passages found are the answer
    return RetrieverQueryEngine(index.as_retriever(similarity_top_k=k), NoText(llm=MockLLM()))
