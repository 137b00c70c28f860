"""What a real server refuses: a key that may only read, strict mode, a full disk. Each is an error by name."""

import datetime as dt
import errno
import subprocess

import numpy as np
import pytest

import bqstore
from tests.conftest import clustered

from .nodes import NEEDS_PROGRAM, single

pytestmark = [NEEDS_PROGRAM, pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")]

KEYS = {"SERVICE__API_KEY": "sesame-all", "SERVICE__READ_ONLY_API_KEY": "sesame-read"}


def test_a_key_that_may_only_read(tmp_path):
    with single(tmp_path / "node", KEYS) as node:
        address = node.address("notes")
        with bqstore.open(address, api_key="sesame-all") as col:
            col.add(np.eye(4), ids=list("abcd"), texts=["one"] * 4, metadatas=[{"n": i} for i in range(4)])
        with bqstore.open(address, api_key="sesame-read") as col:
            assert [hit.id for hit in col.search([0, 1, 0, 0], 1, filter={"n": {"$gte": 1}})] == ["b"]
            assert (len(col), col.ids(), col.get(["c"])[0].text, col.facets("n")[0][1]) == (4, list("abcd"), "one", 1)
            assert col.recall(k=2, sample=4).recall == 1.0
            for call in (
                lambda: col.add(np.eye(4)),
                lambda: col.update_metadata(["a"], {"n": 9}),
                lambda: col.delete(["a"]),
                col.clear,
                lambda: col.set_alias("live"),
                col.drop,
            ):
                with pytest.raises(bqstore.ReadOnlyError, match="this key may not write") as caught:
                    call()
                assert "sesame" not in str(caught.value)
        with pytest.raises(bqstore.ReadOnlyError, match="this key may not write"):
            bqstore.open(node.address("others"), api_key="sesame-read", dim=2)
        for wrong in ("sesame-wrong", None):
            with pytest.raises(bqstore.InvalidInputError, match="the server takes another key") as caught:
                bqstore.open(address, api_key=wrong)
            assert "sesame" not in str(caught.value)
        with bqstore.open(address, api_key="sesame-read", grpc=True) as col:
            assert [hit.id for hit in col.search([0, 1, 0, 0], 1)] == ["b"]
            with pytest.raises(bqstore.ReadOnlyError, match="this key may not write"):
                col.delete(["a"])
            with pytest.raises(bqstore.InvalidInputError, match="the server takes another key"):
                bqstore.open(address, api_key="sesame-wrong", grpc=True)


def test_strict_mode(tmp_path):
    """Requests are as small as it wants them; what it does not allow is told in its words, and at once."""
    moment = dt.datetime(2024, 5, 6, tzinfo=dt.timezone.utc)
    n = 120
    metadatas = [{"k": f"{i % 7}", "when": moment, "free": i} for i in range(n)]
    with single(tmp_path / "node") as node:

        def strict(**given):
            node.post("/collections/notes", {"strict_mode_config": {"enabled": True, **given}}, "PATCH")
            return bqstore.open(node.address("notes"), timeout=30, index_metadata=["k", "when"])

        bqstore.open(node.address("notes"), dim=8, text_index=True).close()
        indexed = {"unindexed_filtering_retrieve": False, "unindexed_filtering_update": False}
        with strict(**indexed, max_query_limit=110, upsert_max_batchsize=40, condition_max_size=30) as col:
            col.add(clustered(n, 8), [f"{i}" for i in range(n)], [f"word {i}" for i in range(n)], metadatas)
            assert len(col) == len(col.ids()) == len(list(col.scroll())) == n == len(col.get(col.ids()))
            assert col.count({"k": "3"}) == 17 and col.count({"when": {"$gte": moment}}) == n
            assert col.update_metadata(filter={"k": "3"}, metadata={"k": "x"}) == col.delete(filter={"k": "x"}) == 17
            assert len(col.search(clustered(1, 8)[0], 5, text="word 7")) == 5
            for refused, words in (
                (lambda: col.count({"free": 3}), r'Index required but not found for "metadata\.free"'),
                (lambda: col.delete(filter={"free": 3}), r'Index required but not found for "metadata\.free"'),
                (lambda: col.search(clustered(1, 8)[0], 111), "Limit exceeded 111 > 110"),
                (lambda: col.delete([f"{i}" for i in range(31)]), "Condition size limit reached"),
            ):
                with pytest.raises(bqstore.InvalidInputError, match=words):
                    refused()
        with strict(search_allow_exact=False, search_max_oversampling=5.0, search_max_hnsw_ef=100) as col:
            assert len(col.search(clustered(1, 8)[0], 5)) == 5
            for given in ({"exact": True}, {"oversampling": 6.0}, {"hnsw_ef": 101}):
                with pytest.raises(bqstore.InvalidInputError, match=r"Exact search disabled|Limit exceeded"):
                    col.search(clustered(1, 8)[0], 5, **given)
        with (
            strict(
                search_allow_exact=True, upsert_max_batchsize=1000, condition_max_size=1000, write_rate_limit=5
            ) as col,
            pytest.raises(bqstore.InvalidInputError, match="request larger than rate limiter capacity"),
        ):
            col.add(clustered(n, 8))


@pytest.fixture
def small(tmp_path):
    """A file system of 200 MB, 100 of them taken by a file that can be removed; skips where none can be mounted."""
    image, folder = tmp_path / "image", tmp_path / "small"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(200_000_000)
    for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]):
        made = subprocess.run(command, capture_output=True, check=False)
        if made.returncode:
            pytest.skip(f"no small file system can be mounted here, as root can: {made.stderr.decode().strip()}")
    (folder / "ballast").write_bytes(bytes(100_000_000))
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk(tmp_path, small):
    """The error has the number of the system's; what was acknowledged is there, is found, and goes on with space."""
    with (
        single(tmp_path / "node", storage=small / "storage") as node,
        bqstore.open(node.address("notes"), timeout=20, dim=64) as col,
    ):
        there, rng = [], np.random.default_rng(0)

        def fill():
            for at in range(100):
                text = rng.bytes(20_000).hex()  # which is not compressed to nothing
                there.extend(col.add(clustered(50, 64, seed=at), [f"{at} {i}" for i in range(50)], [text] * 50))

        with pytest.raises(bqstore.ServerError, match=r"(?i)no space left") as caught:
            fill()
        assert caught.value.errno == errno.ENOSPC
        assert there and len(col.search(clustered(1, 64)[0], 5)) == 5
        assert {record.id for record in col.get(there)} == set(there)
        (small / "ballast").unlink()
        assert col.add(clustered(1, 64), ["after"]) == ["after"]
        node.kill()
        node.start(cluster=False)
        node.wait()
        assert {record.id for record in col.get([*there, "after"])} == {*there, "after"}
