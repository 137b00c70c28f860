"""LangGraph: an agent that decides itself when to look into bqstore, by a retriever tool. Needs no key and no network.

`pip install langgraph`, and an extra of bqstore: `pip install ".[langchain]"`.
"""

import zlib
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import create_retriever_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langchain_bqstore import BQVectorStore


class CountWords(Embeddings):
    """A stand-in without a model: your own goes here, such as OpenAIEmbeddings()."""

    def embed_query(self, text: str) -> list[float]:
        """Count the words of a text."""
        places = [zlib.crc32(word.encode()) % 256 for word in text.lower().split()]
        return [float(places.count(place)) + 0.01 for place in range(256)]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Count the words of each text."""
        return [self.embed_query(text) for text in texts]


class Script(GenericFakeChatModel):
    """A stand-in that asks the tool once and then answers: your own goes here, such as ChatOpenAI()."""

    def bind_tools(self, tools: Any, **settings: Any) -> "Script":
        """A real model is told here what it can call."""
        return self


with BQVectorStore(CountWords(), path="agent-store") as store:  # a folder
    store.add_texts(["Bits are small and quick", "Floats are exact but large"], ids=["bits", "floats"])
    retriever = store.as_retriever(search_kwargs={"k": 1})
    tool = create_retriever_tool(retriever, "look_up", "Look something up in the notes.")
    call = {"name": "look_up", "args": {"query": "what is exact"}, "id": "call-1"}
    says = iter([AIMessage("", tool_calls=[call]), AIMessage("Floats are, says the note.")])
    model = Script(messages=says).bind_tools([tool])

    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([tool]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    result = graph.compile().invoke({"messages": [HumanMessage("What is exact?")]})
    for message in result["messages"]:
        print(f"{message.type}: {message.content}")
