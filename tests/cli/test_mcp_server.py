"""`bqstore mcp`: its tools by themselves, and through the official package where that is installed."""

import asyncio
import json
import os
import sys

import pytest

import bqstore
from bqstore.cli import mcp_server
from bqstore.cli.embedders import embedder_named

from .test_process import ROOT


@pytest.fixture
def tools(words):
    with bqstore.open(words) as col:
        yield mcp_server.Tools(col, embedder_named("own_words:Words"))


def test_search_get_list_filters_and_add(tools):
    assert [hit["id"] for hit in tools.search("what is exact", 1)["hits"]] == ["floats"]
    assert [hit["id"] for hit in tools.search("exact", filter={"n": 2})["hits"]] == ["cats"]
    found = tools.get(["bits", "none"])
    assert found["missing"] == ["none"] and found["documents"][0]["text"] == "Bits are small and quick"
    fields = tools.list_filters()
    assert fields["documents"] == 3 and fields["fields"]["n"]["different"] == 3
    assert tools.list_filters({"n": 1})["fields"] == {"n": {"values": [{"value": 1, "documents": 1}], "different": 1}}
    assert tools.add(["Dogs are loud"], ["dogs"], [{"a.b": "x"}]) == {"ids": ["dogs"]}
    assert tools.search("loud", 1)["hits"][0]["id"] == "dogs"
    assert tools.list_filters()["fields"]["a.b"]["values"] == [{"value": "x", "documents": 1}]


def test_words_alone_need_no_model_but_cannot_be_added(words):
    with bqstore.open(words) as col:
        tools = mcp_server.Tools(col)
        assert {hit["id"] for hit in tools.search("quick")["hits"]} == {"bits", "cats"}
        with pytest.raises(bqstore.InvalidInputError, match="without their model"):
            tools.add(["Dogs"])


def test_add_is_a_tool_only_where_writing_is_allowed(run, words):
    told = json.loads(run("mcp", words, "--tools").stdout)
    assert list(told) == ["search", "get", "list_filters"] and "$gte" in told["search"]
    assert "add" in json.loads(run("mcp", words, "--tools", "--write").stdout)


def test_what_it_needs_is_said_before_a_client_waits(run, store, words, monkeypatch):
    result = run("mcp", store)
    assert result.exit_code == 1 and "name it by --embedder" in result.stderr
    result = run("mcp", words, "--embedder", "own_words:other")
    assert result.exit_code == 1 and "other" in result.stderr
    for name in ("mcp", "mcp.server"):
        monkeypatch.setitem(sys.modules, name, None)
    result = run("mcp", words)
    assert (result.exit_code, result.stdout) == (1, "") and "pip install 'mcp>=2'" in result.stderr


def test_errors_reach_the_client_as_they_are(tools):
    told = mcp_server._told(tools.search, RuntimeError)
    assert told.__name__ == "search" and told("exact", k=1)["hits"]
    with pytest.raises(RuntimeError, match="k is 0"):
        told("exact", 0)


# ---- through the official package


def server_of(path, *options):
    """How a client starts the command."""
    from mcp import StdioServerParameters

    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(path.parent), *sys.path])}
    arguments = ["-m", "bqstore.cli", "mcp", str(path), "--embedder", "own_words:Words", *options]
    return StdioServerParameters(command=sys.executable, args=arguments, env=environ, cwd=str(path.parent))


def test_a_client_in_this_process(tools):
    pytest.importorskip("mcp", reason="mcp, the official package of the protocol, is not installed")
    from mcp.client.client import Client

    async def asked():
        async with Client(mcp_server.serve(tools, "default", write=True)) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            found = await client.call_tool("search", {"query": "exact", "k": 1, "filter": {"n": 1}})
            wrong = await client.call_tool("search", {"query": "exact", "filter": {"n": {"$most": 1}}})
            return names, found, wrong

    names, found, wrong = asyncio.run(asked())
    assert names == ["search", "get", "list_filters", "add"]
    assert json.loads(found.content[0].text)["hits"][0]["id"] == "floats"
    assert wrong.is_error and "$most" in wrong.content[0].text


@pytest.mark.slow
def test_ten_clients_on_one_folder(words):
    pytest.importorskip("mcp", reason="mcp, the official package of the protocol, is not installed")
    from mcp.client.client import Client

    async def one(n):
        async with Client(server_of(words, "--write")) as client:
            for i in range(5):
                await client.call_tool("add", {"texts": [f"text {n} {i}"], "ids": [f"{n}-{i}"]})
            found = await client.call_tool("get", {"ids": [f"{n}-{i}" for i in range(5)]})
            return json.loads(found.content[0].text)["missing"]

    async def ten():
        return await asyncio.gather(*(one(n) for n in range(10)))

    assert asyncio.run(ten()) == [[]] * 10
    with bqstore.open(words, read_only=True) as col:
        assert len(col) == 3 + 50 and col.verify().ok
