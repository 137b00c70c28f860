"""A million texts through the embedder: the memory of a few batches, and nothing asked twice."""

import subprocess
import sys

import pytest

from tests.embeddings.fake_server import serve

pytestmark = pytest.mark.torture

STREAMING = """
import resource, sys
from bqstore.embeddings import OpenAIEmbedder

def peak():
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1024 if sys.platform != "darwin" else size / 1024**2

url, cache, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
embedder = OpenAIEmbedder(api_key="sk-x", dimensions=8, base_url=url, cache=cache, progress=False)
done = 0
for start, vectors in embedder.stream(f"text {i}" for i in range(n)):
    done += len(vectors)
    if done in (n // 10, n):
        print(done, round(peak()), flush=True)
"""


def test_a_million_texts_take_the_memory_of_a_few_batches(tmp_path):
    with serve() as server:
        arguments = [sys.executable, "-c", STREAMING, server.url, str(tmp_path / "cache"), "1000000"]
        for again in (False, True):
            done = subprocess.run(arguments, capture_output=True, text=True, check=True)
            (_, early), (count, late) = (map(int, line.split()) for line in done.stdout.splitlines())
            assert count == 1_000_000 and late - early < 30, done.stdout  # megabytes
            if not again:
                assert len(server.answered) == 1_000_000 and server.twice == []
                server.requests.clear()
                server.answered.clear()
        assert server.requests == []
