"""Nodes of a Qdrant cluster as processes of this machine: started, killed, started again.

`QDRANT_PROGRAM` names the server's program, which this project does not bring.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import HANGS

PROGRAM = os.environ.get("QDRANT_PROGRAM")
NEEDS_PROGRAM = pytest.mark.skipif(
    not PROGRAM,
    reason="no Qdrant program: set QDRANT_PROGRAM=/path/to/qdrant to start nodes of a cluster on this machine",
)


def wait_for(so: Callable[[], Any]) -> Any:
    """What a question to a server is answered with, once it is true; a hang fails."""
    end = time.monotonic() + HANGS
    while True:
        try:
            if found := so():
                return found
        except httpx.HTTPError:  # it is not there yet, or no more
            pass
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.1)


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


class Node:
    """One node, whose storage and ports stay when its process does not."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, storage: Path | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder, self.storage = folder, folder / "storage" if storage is None else storage
        self.http, self.grpc, self.p2p = free_ports(3)
        self.url, self.uri = f"http://127.0.0.1:{self.http}", f"http://127.0.0.1:{self.p2p}"
        self.settings = dict(settings or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._joined = False

    def address(self, name: str) -> str:
        """Of a collection, as `bqstore.open` takes it."""
        return f"qdrant://127.0.0.1:{self.http}/{name}?grpc_port={self.grpc}"

    def start(self, first: Node | None = None, cluster: bool = True) -> None:
        """Start its process; ``first`` is the node through which it joins a cluster."""
        own = {
            "SERVICE__HOST": "127.0.0.1",
            "SERVICE__HTTP_PORT": f"{self.http}",
            "SERVICE__GRPC_PORT": f"{self.grpc}",
            "STORAGE__STORAGE_PATH": f"{self.storage}",
            "STORAGE__SNAPSHOTS_PATH": f"{self.folder}/snapshots",
            "CLUSTER__ENABLED": f"{cluster}".lower(),
            "CLUSTER__P2P__PORT": f"{self.p2p}",
            "STORAGE__WAL__WAL_CAPACITY_MB": "1",
            **self.settings,
        }
        assert PROGRAM is not None
        command = [PROGRAM, "--disable-telemetry"]
        if cluster:
            command += ["--uri", self.uri]
            command += [] if first is None or first is self or self._joined else ["--bootstrap", first.uri]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("QDRANT")}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**inherited, **{f"QDRANT__{key}": value for key, value in own.items()}},
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Until it answers."""
        wait_for(self.is_ready)
        self._joined = True

    def is_ready(self) -> bool:
        """Whether it answers, and its cluster with it. Fails where its process has ended."""
        assert self.process is not None and self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
        return httpx.get(f"{self.url}/readyz", headers=self.key()).status_code == 200

    def key(self) -> dict[str, str]:
        """The header of its key, if it has one."""
        found = self.settings.get("SERVICE__API_KEY")
        return {"api-key": found} if found else {}

    def kill(self, how: int = signal.SIGKILL) -> None:
        """End its process, by default without a word."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(HANGS)
            self.process = None

    def get(self, path: str) -> Any:
        """What it answers to GET."""
        return httpx.get(self.url + path, headers=self.key(), timeout=30).raise_for_status().json()["result"]

    def post(self, path: str, body: Any, method: str = "POST") -> Any:
        """What it answers to POST."""
        answer = httpx.request(method, self.url + path, json=body, headers=self.key(), timeout=60)
        assert answer.is_success, answer.text
        return answer.json()["result"]

    @property
    def peer(self) -> int:
        """Its number in the cluster."""
        return int(self.get("/cluster")["peer_id"])


class Cluster:
    """Nodes that know each other."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder, self.settings = folder, settings
        self.nodes: list[Node] = []

    def join(self) -> Node:
        """Another node."""
        node = Node(self.folder / f"node-{len(self.nodes)}", self.settings)
        self.nodes.append(node)
        node.start(self.nodes[0])
        node.wait()
        self.settle()
        return node

    @property
    def running(self) -> list[Node]:
        """The nodes that have a process."""
        return [node for node in self.nodes if node.process is not None]

    def settle(self) -> None:
        """Wait until all that run have one leader, and know of all."""

        def so() -> bool:
            told = [node.get("/cluster") for node in self.running]
            leaders = {each["raft_info"]["leader"] for each in told}
            return (
                len(leaders) == 1
                and leaders <= {each["peer_id"] for each in told}
                and all(len(each["peers"]) == len(self.nodes) for each in told)
            )

        wait_for(so)

    def leader(self) -> Node:
        """The node that the others follow."""
        peers = {node.peer: node for node in self.running}
        return wait_for(lambda: peers.get(self.running[0].get("/cluster")["raft_info"]["leader"]))

    def shards(self, name: str, node: Node) -> list[dict[str, Any]]:
        """The shards of a collection as a node knows them: shard_id, peer_id, state."""
        told = node.get(f"/collections/{name}/cluster")
        own = [{**each, "peer_id": told["peer_id"]} for each in told["local_shards"]]
        return own + list(told["remote_shards"])

    def whole(self, name: str) -> None:
        """Wait until every replica of a collection is active, in the eyes of every node that runs."""

        def so() -> bool:
            for node in self.running:
                told = node.get(f"/collections/{name}/cluster")
                if told["shard_transfers"] or any(each["state"] != "Active" for each in self.shards(name, node)):
                    return False
            return True

        wait_for(so)

    def end(self) -> None:
        """Kill what runs."""
        for node in self.nodes:
            node.kill()


@contextmanager
def cluster_of(n: int, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A cluster of n nodes, killed at the end."""
    made = Cluster(folder, settings)
    try:
        for _ in range(n):
            made.join()
        yield made
    finally:
        made.end()


@contextmanager
def single(folder: Path, settings: Mapping[str, str] | None = None, storage: Path | None = None) -> Iterator[Node]:
    """A node without a cluster, killed at the end."""
    node = Node(folder, settings, storage)
    try:
        node.start(cluster=False)
        node.wait()
        yield node
    finally:
        node.kill()
