"""The cluster to try: its compose file, and the command that runs the tests on it, without docker."""

import os
import subprocess

import pytest
import yaml

from .conftest import EXAMPLES

FOLDER = EXAMPLES / "cluster"


def test_three_nodes_that_find_each_other_on_ports_of_their_own():
    made = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    nodes = made["services"]
    assert list(nodes) == ["node-1", "node-2", "node-3"] == list(made["volumes"])
    ports = [port for node in nodes.values() for port in node["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in ports)  # there is no key
    assert len({port.split(":")[1] for port in ports}) == 6
    for name, node in nodes.items():
        options = dict(zip(node["command"][1::2], node["command"][2::2], strict=True))
        assert options.pop("--uri") == f"http://{name}:6335"
        assert options == ({} if name == "node-1" else {"--bootstrap": "http://node-1:6335"})
        assert [port.rpartition(":")[2] for port in node["ports"]] == ["6333", "6334"]
        assert node["volumes"] == [f"{name}:/qdrant/storage"]
        assert node["image"].startswith("qdrant/qdrant:") and node["healthcheck"]["test"][0] == "CMD"
        assert node["environment"] == {
            "QDRANT__CLUSTER__ENABLED": "true",
            "QDRANT__STORAGE__COLLECTION__REPLICATION_FACTOR": "2",
        }
        assert name == "node-1" or node["depends_on"] == {"node-1": {"condition": "service_healthy"}}


@pytest.mark.parametrize("failing", [0, 3])
def test_the_command_starts_it_runs_the_tests_on_it_and_removes_it(tmp_path, failing):
    for name, code in (("docker", 0), ("python", failing)):
        fake = tmp_path / name
        fake.write_text(f'#!/bin/sh\necho "{name} $* ${{QDRANT_URL-}}" >> "{tmp_path}/calls"\nexit {code}\n')
        fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("PYTHON", None)
    run = subprocess.run([FOLDER / "run.sh", "-x"], env=environment, cwd=tmp_path, check=False)
    assert run.returncode == failing
    compose = f"docker compose --file {FOLDER}/compose.yaml"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{compose} up --detach --wait ",
        "python -m pytest -q -k server tests/remote -x http://127.0.0.1:6333",
        f"{compose} down --volumes ",
    ]
