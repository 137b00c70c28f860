"""The Batch API: nothing submitted twice, no text lost, whatever the server does and whenever the process dies."""

import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

import bqstore
from bqstore.embeddings import EmbeddingCache, OpenAIEmbedder, user_cache_folder
from bqstore.embeddings.openai_batch import plan as batch_plan
from bqstore.embeddings.openai_batch.batch import BatchStatus, EmbeddingBatch
from bqstore.errors import CorruptionError, EmbeddingError, InvalidInputError, LockedError, StorageError
from bqstore.storage import platform
from bqstore.storage.lock import WriterLock

from .conftest import KEY
from .fake_batch_server import Server, cancel, change, expire, fail, leave_out, refuse, serve
from .fake_server import DIM, Refusal, vector_of

ROOT = Path(__file__).parents[2]
TEXTS = [f"text {i}" for i in range(10)]


def small_requests(sizes: Any) -> Iterator[range]:
    """Two texts to a request."""
    yield from (range(start, min(start + 2, len(sizes))) for start in range(0, len(sizes), 2))


def right(texts: list[str]) -> np.ndarray:
    rows = np.stack([vector_of(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sync_file", "sync_folder"):
        monkeypatch.setattr(platform, name, lambda _: None)


@pytest.fixture
def make(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., EmbeddingBatch]]:
    """Jobs on the server, of batches of three requests of two texts each; the client's own retries are on."""
    monkeypatch.setattr(batch_plan, "plan_requests", small_requests)
    monkeypatch.setattr(batch_plan, "MAX_BATCH_TEXTS", 6)
    client = openai.OpenAI(api_key=KEY, base_url=server.url)

    def make(model: str = "text-embedding-3-small", **settings: Any) -> EmbeddingBatch:
        defaults = {"dimensions": DIM, "folder": tmp_path / "jobs", "endpoint": str(client.base_url), "poll_seconds": 0}
        cache = settings.pop("cache", EmbeddingCache(tmp_path / "cache"))
        return EmbeddingBatch(client, model, cache=cache, **(defaults | settings))

    yield make
    client.close()


def test_submit_and_collect(make, server, tmp_path):
    job = make()
    ids = job.submit([*TEXTS, "text 3"])
    assert ids == ["batch_0", "batch_1"] and sorted(server.texts) == TEXTS
    assert [line["custom_id"] for line in server.inputs(server.batches["batch_1"])] == ["6-8", "8-10"]
    line = server.inputs(server.batches["batch_0"])[0]
    assert (line["method"], line["url"]) == ("POST", "/v1/embeddings")
    assert line["body"]["model"] == "text-embedding-3-small" and line["body"]["dimensions"] == DIM
    vectors = job.collect()
    assert vectors.dtype == np.float32 and vectors.flags.c_contiguous
    np.testing.assert_allclose(vectors, right([*TEXTS, "text 3"]), rtol=1e-6)
    assert job.status()[0] == BatchStatus("batch_0", "completed", 3, 3, 0)
    assert job.tokens == 10
    np.testing.assert_array_equal(job.collect(), vectors)


def test_afterwards_the_embedder_makes_no_request(make, server, tmp_path):
    job = make()
    job.submit(TEXTS)
    vectors, asked = job.collect(), len(server.asked)
    with OpenAIEmbedder(api_key=KEY, dimensions=DIM, base_url=server.url, cache=tmp_path / "cache") as embedder:
        np.testing.assert_array_equal(embedder.embed(TEXTS), vectors)
    assert len(server.asked) == asked


def test_through_the_embedder(make, server, tmp_path):
    settings = {"api_key": KEY, "dimensions": DIM, "base_url": server.url, "cache": tmp_path / "its-cache"}
    with OpenAIEmbedder(**settings) as embedder, bqstore.open() as store:
        embedder.batch(tmp_path / "its-jobs").submit(TEXTS)
        job = embedder.batch(tmp_path / "its-jobs")  # as after a restart
        assert job.submit(TEXTS) == ["batch_0", "batch_1"]
        np.testing.assert_allclose(job.collect(wait=True), right(TEXTS), rtol=1e-6)
        assert job.tokens == 10 and job.price == pytest.approx(10 * 0.01 / 1e6)
        asked = len(server.asked)
        assert embedder.estimate(TEXTS).requests == 0
        assert embedder.add_to(store, TEXTS) == 10 and len(server.asked) == asked
        default = embedder.batch().folder
        assert default.name == "batches" and default.parent == user_cache_folder().parent
        assert KEY not in repr(job)


def test_what_is_cached_is_not_submitted(make, server, tmp_path):
    make().submit(TEXTS[3:5])
    make_again = make()
    make_again.submit(TEXTS[3:5])
    make_again.collect()
    job = make()
    assert len(job.submit(TEXTS)) == 2
    assert sorted(server.texts) == TEXTS
    np.testing.assert_allclose(job.collect(), right(TEXTS), rtol=1e-6)
    asked = len(server.asked)
    assert make().submit(TEXTS[:7]) == [] and len(server.asked) == asked


@pytest.mark.parametrize("cached", [True, False])
def test_submitting_again_submits_nothing(make, server, cached):
    settings = {} if cached else {"cache": None}
    ids = make(**settings).submit(TEXTS)
    assert make(**settings).submit(TEXTS) == ids
    np.testing.assert_allclose(make_and_collect(make(**settings)), right(TEXTS), rtol=1e-6)
    np.testing.assert_allclose(make_and_collect(make(**settings)), right(TEXTS), rtol=1e-6)
    assert server.count("create") == server.count("upload") == 2


def make_and_collect(job: EmbeddingBatch, texts: list[str] = TEXTS) -> np.ndarray:
    job.submit(texts)
    return job.collect()


def test_another_model_or_dimension_is_another_job(make, server):
    for settings in ({}, {"dimensions": 4}, {"model": "text-embedding-3-large"}, {"endpoint": "https://elsewhere/"}):
        make(**settings).submit(["a"])
    assert server.count("create") == 4


def test_without_dimensions_none_are_asked_for(make, server):
    vectors = make_and_collect(make(model="another", dimensions=None))
    assert all("dimensions" not in line["body"] for line in server.inputs(server.batches["batch_0"]))
    np.testing.assert_array_equal(vectors, [vector_of(text) for text in TEXTS])


def test_servers_that_ignore_base64(make, server):
    server.as_lists = True
    np.testing.assert_allclose(make_and_collect(make()), right(TEXTS), rtol=1e-6)


def test_no_texts(make, server):
    job = make()
    assert job.submit([]) == [] and job.collect().shape == (0, DIM) and server.asked == []


def test_texts_are_checked_before_anything_is_sent(make, server):
    with pytest.raises(InvalidInputError, match="text 1 is empty"):
        make().submit(["a", ""])
    with pytest.raises(InvalidInputError, match="not one string"):
        make().submit("abc")
    with pytest.raises(InvalidInputError, match=r"call submit\(texts\)"):
        make().collect()
    with pytest.raises(InvalidInputError, match="dimensions is 0"):
        make(dimensions=0)
    with openai.OpenAI(api_key=KEY, base_url="http://example.com/v1") as open_to_all, pytest.raises(InvalidInputError):
        EmbeddingBatch(open_to_all, "m", folder="x", cache=None, endpoint="http://example.com/v1")
    assert server.asked == []


def test_waiting(make, server):
    server.looks = 3
    job = make()
    job.submit(TEXTS)
    with pytest.raises(EmbeddingError, match=r"2 of 2 batches are not finished; call collect\(\) later"):
        job.collect()
    assert [batch.status for batch in job.status()] == ["in_progress", "in_progress"]
    np.testing.assert_allclose(job.collect(wait=True), right(TEXTS), rtol=1e-6)


@pytest.mark.parametrize("limit", [{"MAX_BATCH_LINES": 1}, {"MAX_BATCH_BYTES": 200}, {"MAX_BATCH_TEXTS": 2}])
def test_the_limits_of_a_batch(make, server, monkeypatch, limit):
    for name, value in limit.items():
        monkeypatch.setattr(batch_plan, name, value)
    assert len(make().submit(TEXTS)) == 5


FATES = {
    "left out": (leave_out, 2, r"texts \d to \d \(no result, batch completed\)"),
    "expired": (expire, 4, r"\(batch_expired\), texts \d to \d \(batch_expired\)"),
    "failed": (fail, 6, r"texts 0 to 1 \(no result, batch failed token_limit_exceeded\)"),
    "cancelled": (cancel, 4, r"\(no result, batch cancelled\)"),
    "refused": (refuse("text 3"), 2, r"texts 2 to 3 \(HTTP 400, context_length_exceeded\)"),
    "too few": (change(lambda data: data.pop()), 2, "is not 2 finite vectors"),
    "too many": (change(lambda data: data.append(data[0])), 2, "is not 2 finite vectors"),
    "twice the same": (change(lambda data: data[0].update(index=0)), 2, "is not 2 finite vectors"),
    "all zeros": (change(lambda data: data[0].update(embedding=[0.0] * DIM)), 2, "without a direction"),
    "not finite": (change(lambda data: data[0].update(embedding=[float("nan")] * DIM)), 2, "is not 2 finite vectors"),
    "shorter": (
        change(lambda data: [item.update(embedding=[1.0] * 3) for item in data]),
        2,
        "3 dimensions instead of 8",
    ),
    "no vectors": (change(lambda data: data.clear()), 2, "is not 2 finite vectors"),
}


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", FATES)
def test_what_has_no_result_is_named_and_asked_for_again(make, server, name, cached):
    fate, lost, named = FATES[name]
    server.fates = [fate]
    settings = {} if cached else {"cache": None}
    job = make(**settings)
    job.submit(TEXTS)
    with pytest.raises(EmbeddingError, match=named) as caught:
        job.collect()
    assert f"{lost} of 10 texts have no vector" in str(caught.value)
    assert "secret" not in str(caught.value) and "text 3'" not in str(caught.value)
    job = make(**settings)
    assert len(job.submit(TEXTS)) == 3
    assert len(server.texts) == 10 + lost
    np.testing.assert_allclose(job.collect(), right(TEXTS), rtol=1e-6)
    assert job.submit(TEXTS) == ["batch_0", "batch_1", "batch_2"]


def test_submit_alone_finds_what_failed(make, server):
    server.fates = [expire]
    make().submit(TEXTS)
    assert len(make().submit(TEXTS)) == 3


def test_a_text_that_is_refused_does_not_spoil_the_others_twice(make, server):
    server.fates = [refuse("text 3")] * 3
    with pytest.raises(EmbeddingError, match="texts 2 to 3"):
        make_and_collect(make())
    with pytest.raises(EmbeddingError, match=r"1 of 10 .*: text 3 \(HTTP 400, context_length_exceeded\)"):
        make_and_collect(make())
    assert sum("text 2" in text for text in server.texts) == 2


def test_results_that_the_server_no_longer_has_are_asked_for_again(make, server):
    job = make(cache=None)
    job.submit(TEXTS)
    job.collect()
    server.script = {"content": [Refusal(404, {"code": "not_found"})]}
    with pytest.raises(EmbeddingError, match="6 of 10 texts have no vector"):
        make_and_collect(make(cache=None))
    np.testing.assert_allclose(make_and_collect(make(cache=None)), right(TEXTS), rtol=1e-6)


def test_answers_to_questions_nobody_asked_are_left_alone(make, server):
    def fate(server, batch, lines):
        strange = [lines[0] | {"custom_id": name} for name in ("0-1", "900-902", 7, None)]
        return [*strange, *lines, lines[0]]

    server.fates = [fate, fate]
    np.testing.assert_allclose(make_and_collect(make()), right(TEXTS), rtol=1e-6)


@pytest.mark.parametrize("how", ["drop", "lose", 500, 429])
@pytest.mark.parametrize("step", ["upload", "create"])
def test_a_lost_answer_makes_nothing_twice(make, server, step, how):
    planned = how if isinstance(how, str) else Refusal(how, {"message": KEY, "code": KEY})
    server.script = {step: [planned]}
    half = make()
    with pytest.raises(EmbeddingError, match="nothing that was done is done twice") as caught:
        half.submit(TEXTS)
    assert server.count(step) == 1  # no retry that does not look first
    assert KEY not in "".join(traceback.format_exception(caught.value)) and caught.value.__context__ is None
    with pytest.raises(EmbeddingError, match="not all is submitted yet"):
        half.collect()
    job = make()
    assert job.submit(TEXTS) == ["batch_0", "batch_1"]
    assert len(server.files) == 2 and len(server.batches) == 2
    np.testing.assert_allclose(job.collect(), right(TEXTS), rtol=1e-6)


def test_a_file_that_the_server_will_not_have_is_uploaded_again(make, server):
    server.script = {"create": [Refusal(400, {"code": "invalid_file"})]}
    with pytest.raises(EmbeddingError, match=r"127\.0\.0\.1 did not make a batch \(HTTP 400, invalid_file\)"):
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
    with pytest.raises(EmbeddingError, match="did not hand out its results"):
        job.collect()
    np.testing.assert_allclose(job.collect(), right(TEXTS), rtol=1e-6)
    assert len(server.batches) == 2


def test_a_batch_of_another_key_is_not_submitted_again(make, server):
    make().submit(TEXTS)
    server.script = {"retrieve": [Refusal(404, {"code": "not_found"})]}
    with pytest.raises(EmbeddingError, match=r"say how batch batch_0 is .* another key"):
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
    with pytest.raises(LockedError, match="another process or thread is at this job"):
        make().submit(TEXTS)
    lock.release()
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
from tests.embeddings.test_batch_api import TEXTS, small_requests
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


@pytest.mark.parametrize("where", ["state", "server"])
def test_killed_at_each_step_and_resumed(server, tmp_path, where):
    forker = subprocess.Popen(
        [sys.executable, "-c", FORKER, server.url], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert forker.stdin is not None and forker.stdout is not None

    def run(folder: Path, kill_at: int) -> int:
        forker.stdin.write(json.dumps([str(folder), kill_at]) + "\n")
        forker.stdin.flush()
        return int(forker.stdout.readline())

    kills = 0
    with forker:
        while True:
            server.reset()
            server.looks = 1
            folder = tmp_path / str(kills)
            folder.mkdir()
            server.kill_at = kills if where == "server" else -1
            died = run(folder, kills if where == "state" else -1)
            server.kill_at = -1
            if died == 0:
                break
            assert died == 9
            assert run(folder, -1) == 0
            vectors = np.fromfile(folder / "vectors", np.float32).reshape(-1, DIM)
            np.testing.assert_allclose(vectors, right(TEXTS), rtol=1e-6)
            assert len(server.batches) == 2 and sorted(server.texts) == TEXTS, f"killed at {kills}"
            assert sum(name.startswith("bqstore-") for name, _ in server.files.values()) == 2
            kills += 1
        forker.stdin.close()
    assert kills > 20
