"""The page of `bqstore view`: bounded, no network request, every text escaped; and its server, which is read-only."""

import http.client
import json
import re
import signal
import socket
import sys
import threading
import urllib.parse
from dataclasses import replace

import numpy as np
import pytest

import bqstore
from bqstore.cli import template, view_data, view_page
from bqstore.cli.view_server import Server
from tests.cli.test_process import start
from tests.cli.test_report_page import HOSTILE, Reader
from tests.conftest import HANGS, clustered
from tests.engine.test_allow_damaged import spoil_row

EVIL = HOSTILE + "\u2028\u202e\x00</table>{{7*7}}%{x}"

NAME = "<script>alert(1)<\u2215script>\u2028\u202e\"'&"  # names of collections have no slash


@pytest.fixture
def notes(tmp_path):
    """A store of 120 documents with metadata of all kinds."""
    path = tmp_path / "notes"
    with bqstore.open(path) as col:
        metadatas = [
            {"lang": ("en", "de")[n % 2], "year": 1900 + n, "tags": ["a", "b"][: n % 3], "title": f"title {n} " * 20}
            for n in range(120)
        ]
        del metadatas[5]["lang"]
        col.add(clustered(120, 16), [f"note-{n}" for n in range(120)], [f"text {n}" for n in range(120)], metadatas)
    return path


def page_of(path, most=100, **more):
    with bqstore.open(path, read_only=True) as col:
        return view_page.page(view_data.looked_at(col, [], most, **more), str(path))


def from_page(text, name):
    return json.loads(re.search(f'id="{name}">(.*?)</script>', text)[1])


def test_a_page_is_written_and_says_what_it_has(run, notes, tmp_path):
    result = run("view", notes, "--to", tmp_path / "v.html", "--documents", 100)
    assert (result.exit_code, result.stderr) == (0, "") and "100 of 120 documents" in result.stdout
    read = Reader((tmp_path / "v.html").read_text("utf-8"))
    assert read.open == [] and "100 of the 120 documents of the collection are on this page" in read.said()
    assert len([tag for tag, attrs in read.tags if tag == "tr"]) > 100
    for part in ("Documents", "Map", "Scores", "Recall and time", "Memory", "Health"):
        assert part in read.said()
    told = json.loads(run("view", notes, "--to", tmp_path / "v.html", "--filter", '{"lang": "de"}', "--json").stdout)
    assert (told["documents"], told["matching"], told["shown"]) == (120, 59, 59)
    assert told["bytes"] == (tmp_path / "v.html").stat().st_size


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of files")
def test_a_new_page_is_for_its_user_alone(run, store, tmp_path):
    file = tmp_path / "v.html"
    assert run("view", store, "--to", file).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    assert run("view", store, "--to", file).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o644


def test_what_draws_is_asked_for_before_anything_is_read(run, store, monkeypatch):
    monkeypatch.setattr("bqstore.cli.files.find_spec", lambda name: None)
    result = run("view", store)
    assert (result.exit_code, result.stdout) == (1, "") and "bqstore view needs plotly" in result.stderr


@pytest.mark.parametrize("what", ["vector", "text", "every vector"])
def test_damaged_documents_closed_the_whole_view(run, notes, tmp_path, what):
    if what == "text":
        spoil_row(notes, b"text 77")
        gone = ["note-77"]
    else:
        gone = ["note-3", "note-77"] if what == "vector" else [f"note-{n}" for n in range(120)]
        file = notes / "default/vectors-0.bin"
        data = bytearray(file.read_bytes())
        for each in gone:
            data[64 + int(each[5:]) * ((len(data) - 64) // 120) + 40] ^= 1
        file.write_bytes(data)
    result = run("view", notes, "--to", tmp_path / "v.html")
    assert result.exit_code == 1 and "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1
    assert "bqstore repair" in result.stderr and (tmp_path / "v.html").exists() == (what != "every vector")
    if what == "every vector":
        return
    assert f"{len(gone)} documents that were looked at are damaged and left out: {', '.join(gone)}" in result.stderr
    said = Reader((tmp_path / "v.html").read_text("utf-8")).said()
    assert f"damaged and left out: {', '.join(gone)}" in said and f"{120 - len(gone)} of the 120" in said
    assert "the others are damaged." in said
    told = json.loads(run("view", notes, "--to", tmp_path / "v.html", "--json").stdout)
    assert (told["damaged"], told["shown"]) == (gone, 120 - len(gone))


def test_nothing_of_the_view_is_fetched(notes):
    read = Reader(page_of(notes))
    for tag, attrs in read.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "video", "audio", "source")
        assert not {"src", "srcset", "action", "background", "poster"} & attrs.keys(), tag
        assert attrs.get("href", "#").startswith("#")
        assert not [name for name in attrs if name.startswith("on")], tag
    (style,) = read.styles
    assert not re.search(r"@import|url\(|https?:|//", style)
    assert not re.search(r"https?:", read.scripts[-1])


def test_hostile_documents_are_text_in_the_view(tmp_path):
    """Ids, texts, metadata, their keys, the names of the collection and of the others."""
    path, names = tmp_path / "evil", {"</script>\u202e": "</script><img src=x>\u2028", "__proto__": "x", EVIL: EVIL}
    with bqstore.open(path, NAME) as col:
        col.add(clustered(20, 8), [f"{EVIL}{n}" for n in range(20)], [EVIL] * 20, [names] * 20)
        view = view_data.looked_at(col, [EVIL], 50)
    text = view_page.page(view, EVIL, served=EVIL)
    assert not set("\u2028\u2029\u202e\x00") & set(text)
    assert HOSTILE not in text and "<script>alert" not in text and "<img" not in text
    read = Reader(text)
    assert read.open == [] and len(read.scripts) == 5
    assert read.said().count(HOSTILE) >= 40
    assert "\\u202e" in read.said()
    fields = from_page(text, "view")["fields"]
    assert [each["name"] for each in fields] == ["</script>\\u202e", "__proto__"] and fields[0]["values"] == [
        "</script><img src=x>\\u2028"
    ]
    assert from_page(text, "figures")


def test_unseen_marks_are_escapes_and_letters_stay_letters():
    assert template.shown("a\u202eb\u2028\x00\ud800\r\nc\td\u0085") == "a\\u202eb\\u2028\\x00\\ud800\nc\td\\x85"
    letters = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f469 \u05e9\u05dc\u05d5\u05dd"
    assert template.shown(letters) == letters


def test_long_documents_are_cut_and_that_is_said(tmp_path):
    with bqstore.open(tmp_path) as col:
        ids = ["x" * 1000, *(f"{n}" for n in range(199))]
        col.add(clustered(200, 8), ids, ["&" * 1_000_000] + ["\U0001f600" * 5000] * 199, [{"k": "<" * 9000}] * 200)
        view = view_data.looked_at(col, [], 5000)
    text = view_page.page(view, "p")
    assert any("Of 200 documents the page has only the first part" in each for each in view.left_out)
    assert len(text.encode()) < 5_000_000 + 3_500_000  # plotly, and what the documents may take
    assert all(len(each.text) < 4100 for each in view.documents)


def test_fields_to_choose_from(notes):
    found = from_page(page_of(notes, 120), "view")
    fields = {each["name"]: each for each in found["fields"]}
    assert fields["lang"]["values"] == ["en", "de"] and fields["lang"]["codes"][5] is None
    assert fields["year"]["values"] is None and fields["year"]["codes"][3] == 1903
    assert fields["tags"]["codes"][:3] == [None, [0], [0, 1]]
    assert "title" not in fields and "too many, too long or nested: title" in Reader(page_of(notes)).said()
    assert len(found["places"]) == len(found["nearest"]) == 120
    assert all(len(row) == view_data.NEAREST for row in found["nearest"])


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (30, 1), (30, 4), (4, 30)])
def test_the_map_has_the_principal_components(shape):
    vectors = np.random.default_rng(0).standard_normal(shape)
    places, share = view_data.plane(vectors)
    centered = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    expected = (left * values)[:, :2]
    assert places.shape == (shape[0], 2) and 0.0 <= share <= 1.0 + 1e-9
    np.testing.assert_allclose(np.abs(places[:, : expected.shape[1]]), np.abs(expected), atol=1e-6)
    if shape[0] > 2:
        assert share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())


def test_vectors_of_any_size_have_a_map():
    for vectors in (np.zeros((5, 3)), np.full((5, 3), 7.0), np.eye(5) * 1e38, np.eye(5) * 1e-38):
        places, share = view_data.plane(vectors)
        assert np.isfinite(places).all() and np.isfinite(share)


@pytest.mark.parametrize("settings", [{"originals": "none"}, {"distance": "dot"}, {"distance": "euclid"}])
def test_collections_of_each_kind_have_a_page(tmp_path, settings):
    with bqstore.open(tmp_path, **settings) as col:
        assert (
            "there are no documents" in view_page.page(view_data.looked_at(col, [], 10), "p") or "originals" in settings
        )
        col.add(clustered(30, 8))
        text = view_page.page(view_data.looked_at(col, [], 10), "p")
    assert ("it keeps no original vectors" in text) == ("originals" in settings)
    assert Reader(text).open == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_documents_have_a_page(tmp_path, count):
    with bqstore.open(tmp_path) as col:
        if count:
            col.add(clustered(count, 8))
        text = view_page.page(view_data.looked_at(col, [], 10), "p")
    assert Reader(text).open == [] and f"All {count} documents" in text


def test_recall_is_measured_where_that_is_asked_for(run, store, asked, tmp_path):
    assert run("view", store, "--to", tmp_path / "v.html").exit_code == 0
    assert asked == [] and "bqstore view" in (tmp_path / "v.html").read_text("utf-8")
    assert run("view", store, "--to", tmp_path / "v.html", "--recall").exit_code == 0
    text = (tmp_path / "v.html").read_text("utf-8")
    assert len(asked) == 1 and {"time", "scores-plot"} <= from_page(text, "figures").keys()
    assert "Times of walks and of scans do not compare" in text


@pytest.mark.parametrize(
    "words, told",
    [
        (["--to", "nowhere/v.html"], "there is no folder"),
        (["--to", "."], "is a folder"),
        (["--filter", "{"], "--filter is no JSON"),
        (["--filter", '{"a": {"$most": 1}}'], "$most"),
        (["--serve", "--to", "v.html"], "--serve writes no file"),
        (["--collection", "nots"], "no collection 'nots'"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(run, store, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    result = run("view", store, *words)
    assert (result.exit_code, result.stdout) == (1, "") and told in result.stderr
    assert not list(tmp_path.glob("*.html"))


def test_deleted_documents_are_told_by_the_rule_of_info(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(clustered(20, 16), [f"d{i}" for i in range(20)])
        col.delete(["d1", "d2"])
        view = view_data.looked_at(col, [], 50)
    for due, taken in ((False, "take space, which"), (True, "take space, and time of searches, which")):
        text = view_page.page(replace(view, info=replace(view.info, compact_due=due)), str(tmp_path))
        assert f"2 deleted or replaced documents {taken} bqstore compact" in text


# ---- served


@pytest.fixture
def server():
    """A server whose page is the filter that it was asked for."""

    def make(asked):
        if asked == "wrong":
            raise bqstore.InvalidInputError("that is no filter")
        return f"<p>{asked}</p>"

    with Server(0, make) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server, path=None, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=HANGS)
    connection.putrequest(method, server.path if path is None else path, skip_host="Host" in headers)
    for name, value in headers.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_the_address_alone_is_answered(server):
    answer, body = ask(server, server.path + "?" + urllib.parse.urlencode({"filter": '{"a": 1}'}))
    assert (answer.status, body) == (200, '<p>{"a": 1}</p>')
    assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Frame-Options"] == "DENY"
    answer, body = ask(server, method="HEAD")
    assert (answer.status, body) == (200, "") and int(answer.headers["Content-Length"]) > 0
    for path in (
        "/",
        "/favicon.ico",
        server.path[:-2] + "/",
        server.path + "x",
        server.path[:-1],
        "/../etc/passwd",
        "/\xe9",
    ):
        answer, body = ask(server, urllib.parse.quote(path))
        assert answer.status == 403 and "whole address" in body, path
    answer, body = ask(server, server.path + "?filter=wrong")
    assert (answer.status, body) == (400, "that is no filter")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_are_refused(server, method):
    answer, _ = ask(server, method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_other_hosts_are_refused(server):
    """A name that is made to mean this machine, as by DNS rebinding; none; and several."""
    port = server.server_port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", "", None):
        answer, body = ask(server, Host=host)
        assert answer.status == 403 and f"served to 127.0.0.1:{port} only" in body, host
    assert ask(server, Host=f"localhost:{port}")[0].status == 200


def test_it_listens_on_loopback_alone_and_each_server_has_a_token_of_its_own(server):
    assert server.server_address[0] == "127.0.0.1"
    with Server(0, str) as other:
        assert len(server.path) > 30 and other.path != server.path


def test_a_port_that_is_taken_is_told(run, store):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("view", store, "--serve", "--port", taken.getsockname()[1])
    assert (result.exit_code, result.stdout) == (1, "") and "cannot be used" in result.stderr


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_a_served_store_follows_writers_and_ctrl_c_ends_it(notes):
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from bqstore.cli import main; main()"
    )
    with start("-c", program, "view", notes, "--serve", "--json") as process:
        lines = [process.stdout.readline() for _ in range(3)]
        address = urllib.parse.urlsplit(json.loads("".join(lines))["address"])
        with bqstore.open(notes) as col:
            col.add(clustered(1, 16), ["added later"])
        connection = http.client.HTTPConnection(address.netloc, timeout=HANGS)
        connection.request("GET", address.path)
        body = connection.getresponse().read().decode()
        connection.close()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANGS)
    assert "added later" in body and 'name="filter"' in body
    assert (process.returncode, err) == (130, "Stopped.\n")
