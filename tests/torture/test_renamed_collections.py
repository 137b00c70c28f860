"""Processes add to a collection that another renames and copies all the time: no acknowledged document is lost."""

import subprocess
import sys
import time

import pytest

import bqstore
from tests.conftest import HANGS

pytestmark = pytest.mark.torture
SECONDS = 60

ADDS = """
import sys, time, bqstore, numpy as np
col, i = None, 0
while time.time() < float(sys.argv[3]):
    try:
        col = col or bqstore.open(sys.argv[1], "a")
        (id_,) = col.add(np.ones((1, 4)), [f"{sys.argv[2]}-{i}"])
        print(id_, flush=True)
    except bqstore.FolderReplacedError:
        if col is not None:
            col.close()
        col = None
    i += 1
"""
MOVES = """
import sys, time, bqstore, random
i = 0
while time.time() < float(sys.argv[2]):
    time.sleep(random.random() / 5)
    try:
        bqstore.copy(sys.argv[1], "a", f"copy {i}") if i % 3 == 2 else bqstore.rename(sys.argv[1], "a", f"moved {i}")
    except bqstore.NotFoundError:
        pass
    i += 1
"""


def test_what_was_acknowledged_is_in_one_of_the_collections(tmp_path):
    end = str(time.time() + SECONDS)
    adding = [
        subprocess.Popen([sys.executable, "-c", ADDS, str(tmp_path), str(k), end], stdout=subprocess.PIPE, text=True)
        for k in range(3)
    ]
    moving = subprocess.Popen([sys.executable, "-c", MOVES, str(tmp_path), end])
    acknowledged = {id_ for each in adding for id_ in each.communicate(timeout=SECONDS + HANGS)[0].split()}
    assert moving.wait(HANGS) == 0 and [each.returncode for each in adding] == [0, 0, 0]
    found = set()
    for name in bqstore.collections(tmp_path):
        with bqstore.open(tmp_path, name) as col:
            assert col.verify().ok
            found.update([] if name.startswith("copy") else col.ids())
    assert acknowledged and acknowledged <= found
