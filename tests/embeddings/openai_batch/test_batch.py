"""The Batch API: what is submitted, and what is made of the results."""

import numpy as np
import openai
import pytest

import bqstore
from bqstore.embeddings import OpenAIEmbedder, user_cache_folder
from bqstore.embeddings.openai_batch import plan as batch_plan
from bqstore.embeddings.openai_batch.batch import BatchStatus, EmbeddingBatch
from bqstore.errors import EmbeddingError, InvalidInputError

from ..conftest import KEY
from ..fake_batch_server import cancel, change, expire, fail, leave_out, refuse
from ..fake_server import DIM, Refusal, vector_of
from .conftest import TEXTS, make_and_collect, right


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
    with pytest.raises(InvalidInputError, match="poll_seconds is -1"):
        make(poll_seconds=-1)
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
    "twice the same": (change(lambda data: data[1].update(index=1)), 2, "is not 2 finite vectors"),
    "all zeros": (change(lambda data: data[0].update(embedding=[0.0] * DIM)), 2, "without a direction"),
    "not finite": (change(lambda data: data[0].update(embedding=[float("nan")] * DIM)), 2, "is not 2 finite vectors"),
    "shorter": (
        change(lambda data: [item.update(embedding=[1.0] * 3) for item in data]),
        2,
        "3 dimensions instead of 8",
    ),
    "no vectors": (change(lambda data: data.clear()), 2, "is not 2 finite vectors"),
}


@pytest.mark.sampled(8)
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


@pytest.mark.usefixtures("tables")
def test_a_text_known_to_be_too_long_is_not_uploaded(make, server):
    with pytest.raises(EmbeddingError, match="text 2 is longer than text-embedding-3-small takes"):
        make().submit(["a", "a", "word " * 9_000])
    assert server.asked == []


def test_a_limit_of_texts_in_a_request_is_kept(server, tmp_path):
    settings = {"api_key": KEY, "dimensions": DIM, "base_url": server.url, "cache": False, "max_request_texts": 3}
    with OpenAIEmbedder(**settings) as embedder:
        embedder.batch(tmp_path / "jobs").submit(TEXTS)
    lines = server.inputs(server.batches["batch_0"])
    assert [len(line["body"]["input"]) for line in lines] == [3, 3, 3, 1]


def test_a_server_that_is_away_does_not_end_the_waiting(make, server, monkeypatch):
    """Six dropped answers did."""
    monkeypatch.setattr("bqstore.embeddings.openai_batch.server._RETRIES", 0)
    server.looks = 2
    job = make()
    job.submit(TEXTS)
    server.script = {"retrieve": ["drop", Refusal(503, {}), "drop", Refusal(429, {}), "drop", "drop", "drop"]}
    np.testing.assert_allclose(job.collect(wait=True), right(TEXTS), rtol=1e-6)
    server.script = {"retrieve": ["drop"]}
    other = make(cache=None)
    other.submit(TEXTS)
    monkeypatch.setattr("bqstore.embeddings.openai_batch.batch._PATIENCE", 0)
    server.script = {"retrieve": ["drop"] * 3}
    with pytest.raises(EmbeddingError, match="did not report on batch"):
        other.collect(wait=True)


def test_prefix_and_fields_of_the_embedder_hold_in_a_batch(server, tmp_path):
    """Texts went up without them: other vectors came, and `embed` asked for all texts again."""
    settings = {"document_prefix": "passage: ", "extra_body": {"input_type": "passage"}, "dimensions": DIM}
    with OpenAIEmbedder(api_key=KEY, base_url=server.url, cache=tmp_path / "cache", **settings) as embedder:
        job = embedder.batch(tmp_path / "jobs", poll_seconds=0)
        job.submit(TEXTS)
        np.testing.assert_allclose(job.collect(wait=True), right([f"passage: {text}" for text in TEXTS]), rtol=1e-6)
        assert embedder.embed(TEXTS).shape == (10, DIM) and embedder.usage.requests == 0
    lines = [line for batch in server.batches.values() for line in server.inputs(batch)]
    assert {line["body"].get("input_type") for line in lines} == {"passage"}
