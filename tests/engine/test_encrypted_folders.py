"""A store in an encrypted folder: fscrypt on an ext4 file system of its own, and gocryptfs where it is installed."""

import fcntl
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

import bqstore

VECTORS = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float32)
SECRET = b"nobody may read this"
_ADD_KEY, _SET_POLICY = (
    0xC0506617,
    0x800C6613,
)  # ioctls of Linux: FS_IOC_ADD_ENCRYPTION_KEY, FS_IOC_SET_ENCRYPTION_POLICY
_XTS, _CTS, _PAD_32 = 1, 4, 3


def run(*command) -> None:
    """A command of the system; the test is skipped where it refuses."""
    done = subprocess.run([str(each) for each in command], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{command[0]} refuses: {done.stderr.strip()[-200:]}")


@pytest.fixture
def fscrypt(tmp_path):
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root, Linux and mkfs.ext4")
    image, disk = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    disk.mkdir()
    run("mkfs.ext4", "-q", "-O", "encrypt", image)
    run("mount", "-o", "loop", image, disk)
    try:
        folder = disk / "encrypted"
        folder.mkdir()
        root, inside = os.open(disk, os.O_RDONLY), os.open(folder, os.O_RDONLY)
        try:
            key = bytearray(struct.pack("<II32sII32x64s", 2, 0, b"", 64, 0, bytes(range(64))))
            fcntl.ioctl(root, _ADD_KEY, key)
            fcntl.ioctl(inside, _SET_POLICY, struct.pack("<BBBB4x16s", 2, _XTS, _CTS, _PAD_32, bytes(key[8:24])))
        except OSError as error:
            pytest.skip(f"this kernel encrypts no folders: {error}")
        finally:
            os.close(root)
            os.close(inside)
        yield folder, [image]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def gocryptfs(tmp_path):
    if not shutil.which("gocryptfs"):
        pytest.skip("gocryptfs is not installed")
    outside, inside, password = tmp_path / "outside", tmp_path / "inside", tmp_path / "password"
    outside.mkdir()
    inside.mkdir()
    password.write_text("a password\n")
    run("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", password, outside)
    run("gocryptfs", "-q", "-passfile", password, outside, inside)
    try:
        yield inside, [outside]
    finally:
        subprocess.run(["umount", "-l", inside], check=True)


@pytest.mark.parametrize("kind", ["fscrypt", "gocryptfs"])
def test_a_store_lives_in_an_encrypted_folder_and_nothing_of_it_stands_outside(kind, request):
    folder, outside = request.getfixturevalue(kind)
    with bqstore.open(folder / "store") as col, bqstore.open(folder / "store") as other:
        col.add(VECTORS, [f"d{i}" for i in range(300)], [SECRET.decode()] * 300, [{"i": i % 3} for i in range(300)])
        other.delete(["d0"])
        col.compact()
        col.requantize(encoding="two_bits")
        col.flush()
        assert other.search(VECTORS[7], 1, filter={"i": 1})[0].id == "d7" and col.verify().ok
        assert col.backup(folder / "copy").documents == 299
    with bqstore.open(folder / "store") as col, bqstore.open(folder / "copy", read_only=True) as copy:
        assert len(col) == len(copy) == col.count({"i": {"$gte": 0}}) == 299
    os.sync()
    files = [file for each in outside for file in ([each] if each.is_file() else each.rglob("*")) if file.is_file()]
    assert files and not any(SECRET in file.read_bytes() for file in files)
    assert any(SECRET in file.read_bytes() for file in (folder / "store").rglob("meta.db"))
