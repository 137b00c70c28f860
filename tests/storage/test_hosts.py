"""Only one host writes where several might: here two kernels are two numbers, and every file system is a network's."""

import contextlib
import types
from pathlib import Path

import pytest

import bqstore
from bqstore.storage import hosts, platform
from bqstore.storage.place import Entries


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(platform, "file_system", lambda path: "nfs4")

    @contextlib.contextmanager
    def on(kernel):
        with monkeypatch.context() as patch:
            patch.setattr(platform, "kernel_id", lambda: kernel)
            patch.setattr(hosts, "socket", types.SimpleNamespace(gethostname=lambda: f"host-{kernel}"))
            yield

    return on


def test_a_second_host_is_refused_until_the_first_has_closed(tmp_path, network):
    with network("one"):
        first, second = bqstore.open(tmp_path), bqstore.open(tmp_path, "default")
        first.add([[1.0, 2.0]])
    with network("two"):
        said = r"on host host-one, and this is host-two.*nfs4.*BQSTORE_ALLOW_HOSTS=1"
        with pytest.raises(bqstore.LockedError, match=said):
            # as in a process of its own, which has no engine to share
            bqstore.open(tmp_path, exclusive=True)
        with bqstore.open(tmp_path, read_only=True) as reader:
            assert len(reader) == 1
    first.close()
    with network("two"), pytest.raises(bqstore.LockedError):
        bqstore.open(tmp_path, exclusive=True)
    second.close()
    with network("two"), bqstore.open(tmp_path) as col:
        col.add([[1.0, 2.0]])
        assert len(col) == 2
    with network("one"), bqstore.open(tmp_path, exclusive=True) as col:
        assert len(col) == 2


def test_entries_are_claimed_as_documents_are(tmp_path, network):
    with network("one"), bqstore.open_key_values(tmp_path) as kv:
        kv.put({"a": b"1"})
        with network("two"), pytest.raises(bqstore.LockedError, match="open for writing on host host-one"):
            bqstore.open_key_values(tmp_path)
    with network("two"), bqstore.open_key_values(tmp_path) as kv:
        assert kv.items() == [("a", b"1")]


def test_a_collection_of_another_host_is_not_dropped_or_renamed(tmp_path, network):
    with network("one"):
        bqstore.open(tmp_path).close()
        with bqstore.open(tmp_path) as col:
            col.add([[1.0, 2.0]])
            with network("two"):
                for call in (
                    lambda: bqstore.drop(tmp_path, "default"),
                    lambda: bqstore.rename(tmp_path, "default", "x"),
                ):
                    with pytest.raises(bqstore.LockedError, match="on host host-one"):
                        call()
        bqstore.rename(tmp_path, "default", "mine")
        assert bqstore.collections(tmp_path) == ["mine"]


def test_many_processes_of_one_host_share_the_claim(tmp_path, network):
    with network("one"), hosts.claim(Entries(tmp_path)), hosts.claim(Entries(tmp_path)):
        with network("two"), pytest.raises(bqstore.LockedError):
            hosts.claim(Entries(tmp_path))
        hosts.claim(Entries(tmp_path)).close()


def test_it_can_be_allowed(tmp_path, network, monkeypatch):
    with network("one"), hosts.claim(Entries(tmp_path)), network("two"):
        monkeypatch.setenv(hosts.ALLOW, "1")
        assert hosts.claim(Entries(tmp_path)) is None


def test_a_damaged_claim_is_no_claim_of_ours(tmp_path, network):
    with network("one"), hosts.claim(Entries(tmp_path)):
        (tmp_path / "HOST").write_text("[")
        with pytest.raises(bqstore.LockedError, match="host unknown"):
            hosts.claim(Entries(tmp_path))
    with network("one"):
        hosts.claim(Entries(tmp_path)).close()


def test_a_local_file_system_needs_none(tmp_path):
    kind = platform.file_system(tmp_path)
    if kind not in hosts._LOCAL:
        pytest.skip(
            f"the temporary folder is on {kind or 'a file system of unknown kind'}, which is not known as local"
        )
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 2.0]])
        assert not (tmp_path / "default" / "HOST").exists()


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="only Linux tells the kinds of file systems")
def test_the_kind_is_that_of_the_innermost_mount(tmp_path):
    assert platform.file_system(Path("/proc/self")) == "proc"
    assert platform.file_system(tmp_path) not in ("", "proc")
    assert len(platform.kernel_id()) == 36


@pytest.mark.parametrize("kind", ["fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"])
def test_a_mounted_object_store_is_refused_by_name(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("bqstore.storage.platform.file_system", lambda path: kind)
    with pytest.raises(bqstore.StorageError, match=r"mounted object store .* keep the collection on a disk"):
        bqstore.open(tmp_path / "store")
