"""`aembed` on event loops, with and without an async client."""

import asyncio
import threading
from concurrent.futures import wait

import numpy as np
import openai
import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.errors import EmbeddingError

from ..conftest import often
from .conftest import KEY
from .fake_server import PATIENCE, Refusal, vector_of


async def test_an_async_client(server, tmp_path):
    async with openai.AsyncOpenAI(api_key=KEY, base_url=server.url) as client:
        embedder = OpenAIEmbedder("own", async_client=client, cache=tmp_path, max_request_texts=1, max_concurrency=4)
        server.plan, server.delay = [Refusal(429, {}), None], 0.005
        texts = [f"text {i}" for i in range(12)]
        np.testing.assert_array_equal(await embedder.aembed(texts), [vector_of(text) for text in texts])
        np.testing.assert_array_equal(await embedder.aembed_query("text 3"), vector_of("text 3"))
        assert len(server.requests) == 13 and server.most_under_way <= 4
        with pytest.raises(EmbeddingError, match="use aembed"):
            await asyncio.to_thread(embedder.embed, ["b"])


async def test_a_call_that_is_cancelled_sends_nothing_more_and_keeps_what_is_under_way(make, server):
    server.hold, server.served_before_hold = threading.Event(), 0
    embedder = make(max_request_texts=1, max_concurrency=1)
    call = asyncio.create_task(embedder.aembed(["a", "b", "c"]))
    await asyncio.to_thread(server.wait_until_under_way, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    server.hold.set()
    await asyncio.to_thread(wait, list(embedder._active), PATIENCE)
    np.testing.assert_array_equal(await embedder.aembed(["a", "c"]), [vector_of("a"), vector_of("c")])
    assert sorted(server.texts) == ["a", "c"]


async def test_without_an_async_client_it_runs_in_a_thread(make):
    np.testing.assert_array_equal(await make().aembed(["a", "b"]), [vector_of("a"), vector_of("b")])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_many_calls_on_a_loop_leave_it_the_threads_that_requests_need(server, host):
    url = server.url.replace("127.0.0.1", host)
    async with openai.AsyncOpenAI(api_key=KEY, base_url=url) as client:
        embedder = OpenAIEmbedder("own", async_client=client, cache=False, max_concurrency=4)
        calls = [embedder.aembed_query(f"text {i}") for i in range(50)]
        vectors = await asyncio.wait_for(asyncio.gather(*calls), PATIENCE)
    np.testing.assert_array_equal(vectors, [vector_of(f"text {i}") for i in range(50)])
    assert server.most_under_way <= 4


def test_a_loop_that_has_ended_is_not_waited_for(server):
    embedders = []

    async def begin():
        server.hold, server.served_before_hold = threading.Event(), 0
        client = openai.AsyncOpenAI(api_key=KEY, base_url=server.url)
        embedders.append(OpenAIEmbedder("own", async_client=client, cache=False))
        call = asyncio.create_task(embedders[0].aembed(["a"]))
        await asyncio.to_thread(server.wait_until_under_way, 1)
        assert not call.done()

    asyncio.run(begin())  # it cancels what has not ended
    server.hold.set()
    embedder = embedders[0]
    wait(list(embedder._active), PATIENCE)
    assert embedder._requester.limiter._under_way == 0  # its place is free for the next loop


async def test_an_embedder_closed_on_a_loop_says_so(make, server):
    embedder = make()
    await embedder.aembed(["a"])
    embedder.close()
    with pytest.raises(EmbeddingError, match="closed; make a new embedder"):
        await embedder.aembed(["b"])
    assert server.texts == ["a"]


async def test_many_tasks_take_few_threads(make, server):
    """Three hundred tasks took 660 threads."""
    server.delay = 0.01
    count = often(500)
    embedder, before = make(max_concurrency=16), set(threading.enumerate())  # those of other tests' loops may be left
    calls = [asyncio.create_task(embedder.aembed_query(f"text {i}")) for i in range(count)]
    most = 0
    while not all(call.done() for call in calls):
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("bqstore")]
        most = max(most, len(set(ours) - before))
        await asyncio.sleep(0.002)
    np.testing.assert_array_equal([call.result() for call in calls], [vector_of(f"text {i}") for i in range(count)])
    assert most <= 5, most  # a loop and four workers
