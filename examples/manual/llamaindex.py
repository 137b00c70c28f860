"""The LlamaIndex side: a query engine on the folder that LangChain wrote, and a language model behind it."""

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
from manual.embedders import Choice


class OpenAIModel(CustomLLM):
    """A chat model of OpenAI's, by way of the ``openai`` package.

    LlamaIndex has a package for it, which holds ``openai`` below version 3.
    """

    model: str

    @property
    def metadata(self) -> LLMMetadata:
        """What the query engine wants to know about the model."""
        return LLMMetadata(model_name=self.model, context_window=16_000, num_output=400)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The model's answer to ``prompt``."""
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
        """The same, in one piece."""
        yield self.complete(prompt, formatted)


def query_engine(vectors: BQVectorStore, choice: Choice, embedder: Embedder, k: int, llm: str) -> BaseQueryEngine:
    """Finds ``k`` passages and, where there is a language model, has it answer from them."""
    index = VectorStoreIndex.from_vector_store(vectors, embed_model=EmbedderEmbedding(embedder))
    if choice.is_openai:
        return index.as_query_engine(llm=OpenAIModel(model=llm), similarity_top_k=k)
    # The mock model only says the prompt back; without a model, the passages found are the answer.
    return RetrieverQueryEngine(index.as_retriever(similarity_top_k=k), NoText(llm=MockLLM()))
