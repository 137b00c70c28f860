"""The Batch API: nothing is submitted twice and no text is lost, whenever an answer is lost or the process dies."""

import json
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

from bqstore.errors import CorruptionError, EmbeddingError, LockedError, StorageError
from bqstore.storage.lock import WriterLock

from ..conftest import KEY
from ..fake_batch_server import fail, refuse
from ..fake_server import DIM, Refusal
from .conftest import TEXTS, make_and_collect, right

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("cached", [True, False])
def test_submitting_again_submits_nothing(make, server, cached):
    settings = {} if cached else {"cache": None}
    ids = make(**settings).submit(TEXTS)
    assert make(**settings).submit(TEXTS) == ids
    np.testing.assert_allclose(make_and_collect(make(**settings)), right(TEXTS), rtol=1e-6)
    np.testing.assert_allclose(make_and_collect(make(**settings)), right(TEXTS), rtol=1e-6)
    assert server.count("create") == server.count("upload") == 2


@pytest.mark.parametrize("how", ["drop", "lose", 500, 429])
@pytest.mark.parametrize("step", ["upload", "create"])
def test_a_lost_answer_makes_nothing_twice(make, server, step, how):
    planned = how if isinstance(how, str) else Refusal(how, {"message": KEY, "code": KEY})
    server.script = {step: [planned]}
    half = make()
    with pytest.raises(EmbeddingError, match="nothing is submitted twice") as caught:
        half.submit(TEXTS)
    assert server.count(step) == 1  # no retry that does not look first
    assert KEY not in "".join(traceback.format_exception(caught.value)) and caught.value.__context__ is None
    with pytest.raises(EmbeddingError, match="not all texts are submitted yet"):
        half.collect()
    job = make()
    assert job.submit(TEXTS) == ["batch_0", "batch_1"]
    assert len(server.files) == 2 and len(server.batches) == 2
    np.testing.assert_allclose(job.collect(), right(TEXTS), rtol=1e-6)


def test_a_file_that_the_server_will_not_have_is_uploaded_again(make, server):
    server.script = {"create": [Refusal(400, {"code": "invalid_file"})]}
    with pytest.raises(EmbeddingError, match=r"127\.0\.0\.1 did not create a batch \(HTTP 400, invalid_file\)"):
        make().submit(TEXTS)
    np.testing.assert_allclose(make_and_collect(make()), right(TEXTS), rtol=1e-6)
    assert len(server.batches) == 2


@pytest.mark.parametrize("step", ["retrieve", "content", "list"])
def test_questions_are_repeated(make, server, step):
    server.script = {step: ["drop", Refusal(500, {}), Refusal(429, {})]}
    np.testing.assert_allclose(make_and_collect(make()), right(TEXTS), rtol=1e-6)


def test_a_download_that_breaks_off_loses_nothing(make, server):
    job = make()
    job.submit(TEXTS)
    server.script = {"content": ["cut"]}
    with pytest.raises(EmbeddingError, match="did not return the results"):
        job.collect()
    np.testing.assert_allclose(job.collect(), right(TEXTS), rtol=1e-6)
    assert len(server.batches) == 2


def test_a_batch_of_another_key_is_not_submitted_again(make, server):
    make().submit(TEXTS)
    server.script = {"retrieve": [Refusal(404, {"code": "not_found"})]}
    with pytest.raises(EmbeddingError, match=r"report on batch batch_0 .* another key"):
        make().submit(TEXTS)
    assert len(server.batches) == 2


def test_a_state_that_is_gone_is_found_at_the_server(make, server, tmp_path):
    for _ in range(3):
        server.create({"input_file_id": "file-x", "endpoint": "x", "completion_window": "24h"})
        server.create({"input_file_id": "file-x", "endpoint": "x", "completion_window": "24h", "metadata": {"a": "b"}})
    ids = make().submit(TEXTS)
    assert make(folder=tmp_path / "elsewhere").submit(TEXTS) == ids
    assert len(server.batches) == 8


def test_state_keeps_no_text_and_no_key(make, server, tmp_path):
    server.fates = [refuse("text 3"), fail]
    job = make()
    job.submit(TEXTS)
    with pytest.raises(EmbeddingError):
        job.collect()
    kept = [path for path in (tmp_path / "jobs").iterdir() if path.stat().st_size]
    assert kept and all((path.stat().st_mode & 0o777) == 0o600 for path in kept)
    for path in kept:
        content = path.read_bytes()
        assert b"text 3" not in content and b"secret" not in content and KEY.encode() not in content
    assert KEY not in repr(job) + str(vars(job))


def test_a_damaged_state_is_refused(make, server, tmp_path):
    make().submit(TEXTS)
    (state,) = (tmp_path / "jobs").glob("*.json")
    whole = state.read_text()
    newer = json.dumps(json.loads(whole) | {"format": 2})
    for content in ("", whole[:-9], "[]", '{"format": 1}', newer):
        state.write_text(content)
        with pytest.raises(CorruptionError, match="damaged, or of a newer version"):
            make().submit(TEXTS)
    state.write_text(whole)
    np.testing.assert_allclose(make_and_collect(make()), right(TEXTS), rtol=1e-6)


def test_one_at_a_time(make, server, tmp_path):
    job = make()
    job.submit(TEXTS)
    (state,) = (tmp_path / "jobs").glob("*.json")
    lock = WriterLock(state.with_suffix(".lock"))
    with lock.open() as file:
        lock.wait(file, 0)
        with pytest.raises(LockedError, match="another process or thread works on this job"):
            make().submit(TEXTS)
    assert make().submit(TEXTS) == ["batch_0", "batch_1"]


def test_a_folder_that_cannot_be_used(make, tmp_path, server):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot use"):
        make(folder=tmp_path / "file").submit(TEXTS)
    assert server.asked == []


# One process that has imported everything forks the ones that are killed; each submits, collects and saves.
FORKER = """
import json, os, signal, sys
import numpy as np, openai
from bqstore.embeddings import EmbeddingBatch, EmbeddingCache
from bqstore.embeddings.openai_batch import job as batch_job, plan as batch_plan
from tests.embeddings.openai_batch.conftest import TEXTS, small_requests
from bqstore.storage import platform
batch_plan.plan_requests, batch_plan.MAX_BATCH_TEXTS = small_requests, 6
platform.sync_file = platform.sync_folder = lambda _: None  # what a process has written outlives it, synced or not
client = openai.OpenAI(api_key="sk-x", base_url=sys.argv[1])
make_file, writes = batch_job.make_file, 0

def moment():
    global writes
    if writes == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    writes += 1

def counted(path, fill):
    moment()
    done = make_file(path, fill)
    moment()
    return done

batch_job.make_file = counted
for line in sys.stdin:
    folder, kill_at = json.loads(line)
    child = os.fork()
    if child == 0:
        own = client.with_options(default_headers={"x-pid": str(os.getpid())})
        job = EmbeddingBatch(own, "text-embedding-3-small", dimensions=8, folder=folder + "/jobs",
            cache=EmbeddingCache(folder + "/cache"), endpoint=sys.argv[1], poll_seconds=0)
        job.submit(TEXTS)
        np.asarray(job.collect(wait=True)).tofile(folder + "/vectors")
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("where", ["state", "server"])
@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_each_step_and_resumed(server, tmp_path, where, every):
    """Or at every sixth."""
    forker = subprocess.Popen(
        [sys.executable, "-c", FORKER, server.url], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert forker.stdin is not None and forker.stdout is not None

    def run(folder: Path, kill_at: int) -> int:
        forker.stdin.write(json.dumps([str(folder), kill_at]) + "\n")
        forker.stdin.flush()
        return int(forker.stdout.readline())

    kill_at = 0
    with forker:
        while True:
            server.reset()
            server.looks = 1
            folder = tmp_path / str(kill_at)
            folder.mkdir()
            server.kill_at = kill_at if where == "server" else -1
            died = run(folder, kill_at if where == "state" else -1)
            server.kill_at = -1
            if died == 0:
                break
            assert died == 9
            assert run(folder, -1) == 0
            vectors = np.fromfile(folder / "vectors", np.float32).reshape(-1, DIM)
            np.testing.assert_allclose(vectors, right(TEXTS), rtol=1e-6)
            assert len(server.batches) == 2 and sorted(server.texts) == TEXTS, f"killed at {kill_at}"
            assert sum(name.startswith("bqstore-") for name, _ in server.files.values()) == 2
            kill_at += every
        forker.stdin.close()
    assert kill_at > 20


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    "texts", [[*TEXTS, "one more"], ["one more", *reversed(TEXTS)], [*TEXTS[:3], "one more", *TEXTS[7:], TEXTS[0]]]
)
def test_a_text_more_submitted_what_ran_again(make, server, texts, cached):
    settings = {} if cached else {"cache": None}
    server.looks = 3
    ids = make(**settings).submit(TEXTS)
    job = make(**settings)
    assert job.submit(texts) == [*ids, "batch_2"]
    assert sorted(server.texts) == sorted([*TEXTS, "one more"])
    with pytest.raises(EmbeddingError, match="3 of 3 batches are not finished"):
        job.collect()
    np.testing.assert_allclose(job.collect(wait=True), right(texts), rtol=1e-6)
    server.looks = 0
    np.testing.assert_allclose(make_and_collect(make(**settings), texts), right(texts), rtol=1e-6)
    np.testing.assert_allclose(make_and_collect(make(**settings)), right(TEXTS), rtol=1e-6)
    both = [*texts, "and another"]  # of what either of two jobs has submitted
    np.testing.assert_allclose(make_and_collect(make(**settings), both), right(both), rtol=1e-6)
    assert sorted(server.texts) == sorted([*TEXTS, "one more", "and another"])


def test_what_another_job_submitted_and_lost_is_submitted_once_more(make, server):
    server.fates, server.looks = [fail, refuse("text 7")], 1
    make().submit(TEXTS)
    texts = ["one more", *TEXTS]
    job = make()
    job.submit(texts)
    with pytest.raises(EmbeddingError, match=r"8 of 11 texts .* texts 1 to 2 \(no result, batch failed"):
        job.collect(wait=True)
    job.submit(texts)
    np.testing.assert_allclose(job.collect(wait=True), right(texts), rtol=1e-6)
    assert sorted(server.texts) == sorted([*texts, *TEXTS[:8]])


@pytest.mark.parametrize("how", ["drop", "lose"])
def test_a_lost_answer_and_a_text_more_make_nothing_twice(make, server, how):
    server.script = {"create": [how]}
    with pytest.raises(EmbeddingError):
        make().submit(TEXTS)
    texts = [*TEXTS, "one more"]
    np.testing.assert_allclose(make_and_collect(make(), texts), right(texts), rtol=1e-6)
    assert sorted(server.texts) == sorted(texts)


def test_a_batch_of_another_job_that_is_gone_keeps_no_list_from_being_submitted(make, server):
    make().submit(TEXTS)
    server.script = {"retrieve": [Refusal(404, {"code": "not_found"})]}
    texts = [*TEXTS, "one more"]
    job = make()
    assert len(job.submit(texts)) == 4  # the one that is gone, and the other, taken over; two of its own
    np.testing.assert_allclose(job.collect(), right(texts), rtol=1e-6)
    assert sorted(server.texts) == sorted([*texts, *TEXTS[:6]])


def test_another_model_takes_nothing_over(make, server):
    make().submit(TEXTS)
    make(dimensions=4).submit(TEXTS[1:])
    assert sorted(server.texts) == sorted([*TEXTS, *TEXTS[1:]])


def test_a_damaged_state_of_another_job_is_left_alone(make, server, tmp_path):
    server.looks = 9
    make().submit(TEXTS)
    (keys,) = (tmp_path / "jobs").glob("*.keys")
    whole = keys.read_bytes()
    for damage in (whole[32:], whole[:-1], b"", None):
        keys.unlink() if damage is None else keys.write_bytes(damage)
        before = len(server.texts)
        make().submit([*TEXTS, f"after {damage}"])
        assert len(server.texts) > before
    job = make()
    job.submit(TEXTS)
    np.testing.assert_allclose(job.collect(wait=True), right(TEXTS), rtol=1e-6)
