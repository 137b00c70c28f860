"""Embed 100,000 texts through a server that takes 20 ms per request, with our embedder and with the frameworks' own.

    python -m tests.benchmarks.embedding [--n 100000] [--ms 20]

The server answers with vectors of 1,536 dimensions made beforehand, so that it costs little itself. Each client runs in
a process of its own, whose peak memory is measured. Peers that are not installed are named and left out. One run is
killed halfway and started again, to count the requests that are repeated. It asserts nothing: times depend on the
machine.
"""

import argparse
import base64
import importlib.util
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

DIM = 1536
KEY = "sk-of-a-benchmark"
PEERS = {"langchain": "langchain_openai", "llama_index": "llama_index.embeddings.openai"}


def serve(ms: float, port: "multiprocessing.Queue[int]", log: str) -> None:
    """Run the server, which writes the first text of each request to ``log``."""
    vectors = np.random.default_rng(0).standard_normal((2048, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    packed = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    items = [f'{{"object":"embedding","index":{i},"embedding":"{text}"}}' for i, text in enumerate(packed)]
    bodies: dict[int, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
            n = len(texts)
            if n not in bodies:
                bodies[n] = f'{{"object":"list","model":"m","data":[{",".join(items[:n])}],"usage":'.encode()
                bodies[n] += b'{"prompt_tokens":1,"total_tokens":1}}'
            time.sleep(ms / 1000)
            with Path(log).open("a") as file:
                file.write(f"{n} {texts[0]}\n")
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(bodies[n])))
            self.end_headers()
            self.wfile.write(bodies[n])

        def log_message(self, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # from the client that is killed

    server = Quiet(("127.0.0.1", 0), Handler)
    port.put(server.server_address[1])
    server.serve_forever()


def client(who: str, url: str, n: int, cache: str) -> None:
    """Embed all texts with one client; print the seconds and the process's peak memory as JSON."""
    texts = [f"Passage {i}: the quick brown fox jumps over the lazy dog." for i in range(n)]
    if who == "langchain":
        from langchain_openai import OpenAIEmbeddings

        # without the token counting, which would fetch tables from the network
        make = OpenAIEmbeddings(api_key=KEY, base_url=url, check_embedding_ctx_length=False)
        work = make.embed_documents
    elif who == "llama_index":
        from llama_index.embeddings.openai import OpenAIEmbedding

        work = OpenAIEmbedding(api_key=KEY, api_base=url).get_text_embedding_batch
    else:
        from bqstore.embeddings import OpenAIEmbedder

        folder = cache if who in ("ours", "ours, again", "ours, a stream", "ours, killed") else False
        ours = OpenAIEmbedder(api_key=KEY, base_url=url, cache=folder, progress=False)
        if who in ("ours, a stream", "ours, killed"):

            def work(texts: list[str]) -> int:
                done = 0
                for _, vectors in ours.stream(texts):
                    done += len(vectors)
                    if who == "ours, killed" and done >= n // 2:
                        os.kill(os.getpid(), 9)
                return done

        else:
            work = ours.embed
    begun = time.perf_counter()
    work(texts)
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    """Run the server and one client after another, and print what each took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--ms", type=float, default=20.0)
    parser.add_argument("--client", nargs=3)
    options = parser.parse_args()
    if options.client:
        who, url, cache = options.client
        client(who, url, options.n, cache)
        return
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    with tempfile.TemporaryDirectory() as folder:
        log = f"{folder}/log"
        server = multiprocessing.Process(target=serve, args=(options.ms, port, log), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{port.get()}/v1"
        rounds = [
            ("ours, no cache", ""),
            ("ours", f"{folder}/a"),
            ("ours, again", f"{folder}/a"),
            ("ours, a stream", f"{folder}/b"),
            ("ours, killed", f"{folder}/c"),
            ("ours, a stream", f"{folder}/c"),
            ("langchain", ""),
            ("llama_index", ""),
        ]
        for who, cache in rounds:
            if who in PEERS and not _is_there(PEERS[who]):
                print(f"{who}: {PEERS[who]} is not installed; left out")
                continue
            if not cache.endswith("c") or who == "ours, killed":
                Path(log).write_text("")
            command = [sys.executable, "-m", "tests.benchmarks.embedding", "--n", str(options.n)]
            done = subprocess.run(
                [*command, "--client", who, url, cache], stdout=subprocess.PIPE, text=True, check=False
            )
            with Path(log).open() as file:
                asked = [line.split(" ", 1)[1] for line in file]
            again = f", {len(asked) - len(set(asked))} repeated" if cache.endswith("c") else ""
            said = json.loads(done.stdout) if done.stdout else {"ended by": -done.returncode}
            figures = ", ".join(f"{name} {value:,.1f}" for name, value in said.items())
            print(f"{who:16} {figures}; {len(asked)} requests{again}", flush=True)
        server.terminate()


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    main()
