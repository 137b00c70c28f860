"""`bqstore ingest`: which files are read, how they are cut, and that only what has changed is embedded again."""

import datetime
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore.cli import passages
from bqstore.cli.passages import Cut, Source, split
from tests.embeddings.fake_server import serve

from .given import MODULE


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """A folder of documents, and a module that embeds by words and keeps what it was asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_words.py").write_text(
        MODULE + "asked = []\nembed = Words.embed\nWords.embed = lambda self, t: (asked.extend(t), embed(self, t))[1]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_words", raising=False)
    monkeypatch.delenv("BQSTORE_EMBEDDER", raising=False)
    folder = tmp_path / "notes"
    (folder / "more" / ".hidden").mkdir(parents=True)
    (folder / "a.md").write_text("# Bits\n\nBits are small.\n\n" + "More of bits. " * 20)
    (folder / "more" / "b.html").write_text(
        "<title>Cats</title><script>no()</script><p>Cats <b>purr</b> &amp; sleep<br>all day<p>Dogs bark"
    )
    (folder / "c.jsonl").write_text('{"id": "x", "text": "one row", "lang": "en"}\n\n{"content": "another"}\n')
    (folder / "d.csv").write_text("body,n\nrow of a table,1\n,2\n")
    (folder / "more" / ".hidden" / "e.txt").write_text("hidden")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def ingest(run, notes, *more):
    return run("ingest", notes.parent / "store", notes, "--embedder", "own_words:Words", "--size", 120, *more)


def test_only_what_has_changed_is_embedded_again(run, notes):
    result = ingest(run, notes)
    assert (result.exit_code, result.stderr) == (0, "") and "4 files, 7 passages, 7 of them new" in result.stdout
    asked = sys.modules["own_words"].asked
    assert len(asked) == 7
    told = json.loads(ingest(run, notes, "--json").stdout)
    assert (told["unchanged"], told["added"], told["deleted"]) == (7, 0, 0) and len(asked) == 7
    (notes / "a.md").write_text("# Bits\n\nBits are tiny.")
    (notes / "more" / "b.html").unlink()
    dry = ingest(run, notes, "--dry-run")
    assert "1 of them new or changed" in dry.stdout and "Nothing was written" in dry.stdout and len(asked) == 7
    told = json.loads(ingest(run, notes, "--json").stdout)
    assert (told["added"], told["deleted"], told["gone"]) == (1, 2, ["notes/more/b.html"])
    assert asked[7:] == ["# Bits\n\nBits are tiny."]
    with bqstore.open(notes.parent / "store") as col:
        assert sorted(col.ids()) == ["notes/a.md#0", "notes/c.jsonl#1", "notes/d.csv#0", "notes/more/b.html#0", "x"]
        (page, row) = col.get(["notes/more/b.html#0", "x"])
        assert page.text == "Cats purr & sleep\nall day\n\nDogs bark" and page.metadata["title"] == "Cats"
        assert row.metadata == {"lang": "en", "source": "notes/c.jsonl"}
        assert col.info().embedding_model == "words" and col.info().text_index is not None
    assert "1 files are gone; --prune" in ingest(run, notes).stdout
    assert json.loads(ingest(run, notes, "--prune", "--json").stdout)["deleted"] == 1
    hits = json.loads(run("search", notes.parent / "store", "tiny", "--mode", "text", "--json").stdout)["hits"]
    assert [hit["id"] for hit in hits] == ["notes/a.md#0"]


def test_what_was_interrupted_goes_on(run, notes, monkeypatch):
    monkeypatch.setattr("bqstore.cli.ingesting.BATCH", 3)
    add, calls = bqstore.Collection.add, []

    def interrupted(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(self, *arguments, **keywords)

    monkeypatch.setattr(bqstore.Collection, "add", interrupted)
    result = ingest(run, notes)
    assert (result.exit_code, result.stderr) == (130, "Stopped.\n")
    asked = sys.modules["own_words"].asked
    asked.clear()
    told = json.loads(ingest(run, notes, "--json").stdout)
    assert (told["unchanged"], told["added"]) == (3, 4) and len(asked) == 4


def test_a_file_that_cannot_be_read_is_left_out_and_its_passages_stay(run, notes):
    ingest(run, notes)
    for name, data in (("a.md", b"\xff\xfe\x00"), ("z.txt", b"a\0b"), ("c.jsonl", b"{"), ("d.csv", b'text\n"a')):
        (notes / name).write_bytes(data)
    (notes / "w.csv").write_text("name\nnobody\n")
    result = ingest(run, notes)
    assert result.exit_code == 1 and "0 deleted" in result.stdout
    for said in (
        "no text in UTF-8",
        "save it as UTF-8",
        "zero bytes",
        "line 1 is no JSON",
        "no CSV",
        "name it by --text-field",
    ):
        assert said in result.stderr
    assert ingest(run, notes / "w.csv", "--text-field", "name").exit_code == 0
    for n in range(3):
        (notes / f"bad{n}.txt").write_bytes(b"\0")
    assert "and 3 more were left out" in ingest(run, notes).stderr


def test_passages_of_a_pdf_have_their_pages(run, notes, monkeypatch):
    """Pypdf's own reader is tried below, where it is installed."""
    pages = [SimpleNamespace(extract_text=lambda text=text: text) for text in ("first page", " ", "third page")]
    monkeypatch.setitem(sys.modules, "pypdf", SimpleNamespace(PdfReader=lambda file: SimpleNamespace(pages=pages)))
    (notes / "f.pdf").write_bytes(b"%PDF-1.4")
    found = list(passages.passages(Source("f.pdf", notes / "f.pdf"), Cut()))
    assert [(each.id, each.text, each.metadata["page"]) for each in found] == [
        ("f.pdf#0", "first page", 1),
        ("f.pdf#1", "third page", 3),
    ]


def test_pdf_is_read_by_pypdf(run, notes, monkeypatch):
    (notes / "f.pdf").write_bytes(b"%PDF-1.4 and no more")
    monkeypatch.setitem(sys.modules, "pypdf", None)
    assert "pip install pypdf" in ingest(run, notes).stderr
    monkeypatch.delitem(sys.modules, "pypdf")
    pytest.importorskip("pypdf", reason="pypdf is not installed")
    assert "pypdf cannot read it" in ingest(run, notes).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is nothing at nowhere"),
        (["notes/picture.png"], "of no kind that is read"),
        (["notes", "other/notes"], "would both be notes/a.md"),
        (["notes", "--overlap", "600"], "half of --size"),
        (["notes", "--embedder", "none:none"], "there is no module"),
    ],
)
def test_what_cannot_be_ingested_makes_no_store(run, notes, words, said):
    other = notes.parent / "other" / "notes"
    other.mkdir(parents=True)
    (other / "a.md").write_text("another")
    result = run("ingest", "store", "--embedder", "own_words:Words", *words)
    assert result.exit_code == 1 and said in result.stderr and not (notes.parent / "store").exists()


def test_the_cost_is_told_before_anything_is_sent(run, notes, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        words = ("ingest", tmp_path / "store", notes, "--embedder", "openai:text-embedding-3-small", "--no-words")
        result = run(*words)  # nobody answers the question
        assert result.exit_code == 1 and "US$ 0.0" in result.stdout and not server.requests
        assert not (tmp_path / "store").exists()
        assert run(*words, "--yes").exit_code == 0 and server.requests


def test_pieces_are_short_overlap_and_hold_every_word():
    text = "\r\n\r\n".join(f"Paragraph {i}. " + f"word{i} " * (i % 40) for i in range(60)) + " " + "x" * 500
    for cut in (Cut(200, 0), Cut(200, 50)):
        pieces = split(text, cut)
        assert max(map(len, pieces)) <= 200 and all(pieces)
        assert set(" ".join(pieces).split()) >= {f"word{i}" for i in range(60) if i % 40}
    assert split("  ", Cut()) == [] and split("short", Cut()) == ["short"]
    first, second = split("aaaa bbbb. cccc dddd eeee ffff gggg hhhh iiii jjjj kkkk", Cut(50, 12))
    assert second.split()[0] in first.split()


def test_a_head_that_is_not_closed_hides_no_body(tmp_path):
    (tmp_path / "p.html").write_text("<head><title>T</title><body><ul><li>one<li>two</ul>")
    (only,) = passages.passages(Source("p.html", tmp_path / "p.html"), Cut())
    assert only.text == "one\ntwo" and only.metadata["title"] == "T"


# ---- lsa, the embedder that needs nothing


def test_three_commands_from_documents_to_an_answer_without_a_key(run, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.delenv("BQSTORE_EMBEDDER", raising=False)
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in (("cats", "Cats purr and sleep."), ("dogs", "Dogs bark at night."), ("fish", "Fish swim deep.")):
        (docs / f"{name}.md").write_text(text)
    store = tmp_path / "store"
    result = run("ingest", store, docs)
    assert result.exit_code == 1 and "name what embeds by --embedder" in result.stderr and not store.exists()
    result = run("ingest", store, docs, "--embedder", "lsa", "--dry-run")
    assert result.exit_code == 0 and not store.exists()
    result = run("ingest", store, docs, "--embedder", "lsa")
    assert (result.exit_code, result.stderr) == (0, "") and "3 stored" in result.stdout
    hits = json.loads(run("search", store, "who is purring?", "--mode", "vector", "-k", 1, "--json").stdout)["hits"]
    assert [hit["id"] for hit in hits] == ["docs/cats.md#0"]
    (docs / "cats.md").write_text("Cats purr and dream.")
    told = json.loads(run("ingest", store, docs, "--json").stdout)  # of what was learned then, and without a name
    assert (told["added"], told["unchanged"]) == (1, 2)
    tools = json.loads(run("mcp", store, "--tools").stdout)
    assert "search" in tools


def test_lsa_does_not_take_a_collection_of_another_model(run, notes):
    ingest(run, notes)
    result = run("ingest", notes.parent / "store", notes, "--embedder", "lsa")
    assert result.exit_code == 1 and "words" in result.stderr and "lsa-256" in result.stderr
    result = run("search", notes.parent / "store", "cats", "--mode", "vector", "--embedder", "lsa")
    assert result.exit_code == 1 and "was not embedded by lsa" in result.stderr


def test_lsa_that_is_interrupted_goes_on_with_what_it_had_learned(run, notes, monkeypatch):
    monkeypatch.setattr("bqstore.cli.ingesting.BATCH", 3)
    add, calls = bqstore.Collection.add, []

    def interrupted(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(self, *arguments, **keywords)

    monkeypatch.setattr(bqstore.Collection, "add", interrupted)
    words = ("ingest", notes.parent / "store", notes, "--embedder", "lsa", "--size", 120)
    assert run(*words).exit_code == 130
    (notes / "z.txt").write_text("what has come since would have made another model of it")
    told = json.loads(run(*words, "--json").stdout)
    assert (told["unchanged"], told["added"]) == (3, 5)


def test_what_has_no_words_cannot_be_embedded_by_them(run, tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3 !")
    result = run("ingest", tmp_path / "store", tmp_path / "a.txt", "--embedder", "lsa")
    assert result.exit_code == 1 and "no words" in result.stderr and not (tmp_path / "store").exists()


# ---- Parquet, vectors, rows of CSV


def test_vectors_of_npy_files_need_no_embedder(run, notes):
    vectors = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    folder = notes.parent / "vectors"
    folder.mkdir()
    np.save(folder / "v.npy", vectors)
    words = ("ingest", notes.parent / "rows", folder, "--json")
    told = json.loads(run(*words).stdout)
    assert (told["passages"], told["added"]) == (5, 5)
    assert json.loads(run(*words).stdout)["unchanged"] == 5
    vectors[3] *= -1
    np.save(folder / "v.npy", vectors[:4])
    told = json.loads(run(*words).stdout)
    assert (told["unchanged"], told["added"], told["deleted"]) == (3, 1, 1)
    with bqstore.open(notes.parent / "rows") as col:
        (record,) = col.get(["vectors/v.npy#3"], with_vectors=True)
        assert record.metadata == {"source": "vectors/v.npy", "row": 3} and record.text is None
        np.testing.assert_array_equal(record.vector, vectors[3])
    np.save(folder / "v.npy", np.array(["no", "numbers"]))
    result = run("ingest", notes.parent / "rows", folder)
    assert result.exit_code == 1 and "expected one numpy array" in result.stderr
    np.save(folder / "v.npy", vectors)
    mixed = ingest(run, notes, folder)
    assert mixed.exit_code == 1 and "dimensions" in mixed.stderr and "Traceback" not in mixed.stderr


def test_rows_of_parquet(run, notes, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (notes / "p.parquet").write_bytes(b"PAR1")
    assert "pip install pyarrow" in ingest(run, notes).stderr
    monkeypatch.delitem(sys.modules, "pyarrow")
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    from pyarrow import parquet

    assert "pyarrow cannot read it" in ingest(run, notes).stderr
    day = datetime.date(2024, 5, 6)
    columns = {"id": ["one", "two"], "content": ["first row", "second row"], "day": [day, None], "v": [[1.0], [2.0]]}
    parquet.write_table(pyarrow.table(columns), notes / "p.parquet")
    assert ingest(run, notes).exit_code == 0
    with bqstore.open(notes.parent / "store") as col:
        (record,) = col.get(["one"])
        assert record.text == "first row" and record.metadata == {"day": "2024-05-06", "source": "notes/p.parquet"}


def test_rows_of_one_id_do_not_replace_each_other_in_silence(run, notes):
    folder = notes.parent / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("id,text\n1,alpha\n")
    (folder / "b.csv").write_text("id,text\n1,beta\n2,gamma\n")
    (folder / "c.csv").write_text("id,text\n2,two\n")
    (folder / "d.csv").write_text("id,text\n4,one\n4,two\n")
    words = ("ingest", notes.parent / "store", folder, "--embedder", "own_words:Words")
    result = run(*words)
    assert result.exit_code == 1 and "2 stored" in result.stdout
    assert "rows/b.csv was left out: a row has the id '1', which one of rows/a.csv has, too" in result.stderr
    assert "rows/d.csv was left out: two of its rows have the same id" in result.stderr
    with bqstore.open(notes.parent / "store") as col:
        assert [each.text for each in col.get(["1", "2"])] == ["alpha", "two"]


def test_rows_whose_text_is_null_and_fields_that_say_nothing(run, notes):
    rows = ({"text": None}, {"text": "one", "a": None, "b": float("nan"), "c": 0.0, "source": "web"})
    (notes / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = ingest(run, notes)
    assert (result.exit_code, result.stderr) == (0, "")
    with bqstore.open(notes.parent / "store") as col:
        (record,) = col.get(["notes/c.jsonl#1"])
        assert record.metadata == {"c": 0.0, "row_source": "web", "source": "notes/c.jsonl"}


def test_a_pdf_without_text_is_told(run, notes, monkeypatch):
    pages = [SimpleNamespace(extract_text=lambda: "")]
    monkeypatch.setitem(sys.modules, "pypdf", SimpleNamespace(PdfReader=lambda file: SimpleNamespace(pages=pages)))
    (notes / "scan.pdf").write_bytes(b"%PDF-1.4")
    result = ingest(run, notes)
    assert result.exit_code == 0 and "1 PDF files have no text" in result.stderr and "notes/scan.pdf" in result.stderr
    assert json.loads(ingest(run, notes, "--json").stdout)["without_text"] == ["notes/scan.pdf"]


def test_a_cell_with_a_separator_of_lines_is_one_cell(tmp_path):
    (tmp_path / "t.csv").write_text("text,n\none\u2028line,1\n" + "x" * 200_000 + ",2\n", "utf-8")
    first, *_, last = passages.passages(Source("t.csv", tmp_path / "t.csv"), Cut())
    assert (first.text, first.metadata["n"], last.metadata["n"]) == ("one\u2028line", "1", "2")


def test_one_file_that_cannot_be_stored_stopped_all_others(run, notes):
    (notes / "id.jsonl").write_text(json.dumps({"id": "i" * 1025, "text": "one"}))
    (notes / "half.jsonl").write_text('{"text": "one", "a": ["\\ud800"]}')
    (notes / "text.jsonl").write_text('{"text": "one \\ud800"}')
    (notes / "nan.jsonl").write_text('{"text": "one", "a": [NaN]}')
    names = ["half", "id", "nan", "text"]
    if sys.platform == "linux":  # others refuse such names
        (notes / os.fsdecode(b"na\xffme.txt")).write_text("one")
        names.append("na\\udcffme")
    result = ingest(run, notes)
    assert result.exit_code == 1 and "7 stored" in result.stdout and "Traceback" not in result.stderr
    for name, said in zip(names, ("surrogate", "1,025 bytes", "JSON", "lone surrogate", "rename"), strict=False):
        assert any(f"notes/{name}." in line and said in line for line in result.stderr.splitlines()), (
            name,
            result.stderr,
        )


def test_fields_nested_too_deep_stopped_all_other_files(run, notes):
    (notes / "deep.jsonl").write_text('{"text": "one", "a": ' + "[" * 200 + "]" * 200 + "}")
    told = json.loads(ingest(run, notes, "--json").stdout)
    assert told["added"] == 7 and "nests more than 100 deep" in told["left_out"]["notes/deep.jsonl"]


def test_a_folder_without_anything_to_read_was_told_as_a_success_without_a_word(run, notes):
    folder = notes.parent / "pictures"
    folder.mkdir()
    (folder / "p.png").write_bytes(b"")
    result = run("ingest", notes.parent / "none", folder, "--embedder", "own_words:Words")
    assert result.exit_code == 0 and "no file of a kind that is read: .txt, .md" in result.stderr


# ---- folders of one name


@pytest.fixture
def take(run, notes):
    """Ingest folders, wherever they are, into one store."""
    store = notes.parent / "store"
    return lambda *more: run("ingest", store, "--embedder", "own_words:Words", "--size", 120, *more)


def test_a_folder_replaced_the_files_of_another_that_has_its_name(take, notes):
    (notes / "same.md").write_text("the first")
    assert take(notes).exit_code == 0
    other = notes.parent / "other" / "notes"
    other.mkdir(parents=True)
    (other / "same.md").write_text("the second")
    before = {each.id: each.text for each in bqstore.open(notes.parent / "store").scroll()}
    for more in ([], ["--prune"], ["--dry-run"]):
        result = take(other, *more)
        assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
        for said in (f"has notes from {notes}; {other} would take its place", "--collection", "--moved"):
            assert said in result.stderr
    assert {each.id: each.text for each in bqstore.open(notes.parent / "store").scroll()} == before
    link = notes.parent / "link" / "notes"
    link.parent.mkdir()
    link.symlink_to(notes)
    assert "0 of them new" in take(link).stdout  # the same folder by another way
    single = take(other / "same.md")  # a file by itself has another name
    assert single.exit_code == 0 and take(notes / "same.md").exit_code == 1
    told = json.loads(take(other, "--moved", "--json").stdout)
    assert (told["passages"], told["added"], "notes/a.md" in told["gone"]) == (1, 1, True)
    assert "has notes from" in take(notes).stderr and take(other).exit_code == 0


def test_a_folder_that_has_moved_is_known_by_its_passages(take, notes):
    """And one on another machine, where the first place is not."""
    assert take(notes).exit_code == 0
    moved = notes.parent / "elsewhere" / "notes"
    moved.parent.mkdir()
    notes.rename(moved)
    (moved / "a.md").write_text("another text")
    told = json.loads(take(moved, "--json").stdout)
    assert (told["added"], told["unchanged"]) == (1, 4)
    notes.mkdir()
    (notes / "a.md").write_text("what took the first place since")
    assert f"has notes from {moved}" in take(notes).stderr
    for each in moved.iterdir():
        if each.is_file():
            each.unlink()
    (moved / "a.md").write_text("all is new")
    assert take(moved).exit_code == 0  # in its place, whatever is in it
    moved.rename(moved.parent / "gone")
    assert f"has notes from {moved}; {notes} would take" in take(notes).stderr


def test_a_store_that_does_not_know_where_its_folders_were_takes_them_as_before(take, notes):
    with bqstore.open(notes.parent / "store") as col:
        col.add(np.ones((1, 64)), ["notes/a.md#0"], ["old"], [{"source": "notes/a.md", "passage": 0}])
    assert take(notes).exit_code == 0
    other = notes.parent / "other" / "notes"
    other.mkdir(parents=True)
    (other / "a.md").write_text("another")
    assert "has notes from" in take(other).stderr


def test_two_folders_of_one_name_at_once_are_not_gone_when_one_is_read(take, notes):
    other = notes.parent / "other" / "notes"
    other.mkdir(parents=True)
    (other / "z.md").write_text("another")
    assert take(notes, other).exit_code == 0
    told = json.loads(take(notes, "--prune", "--json").stdout)
    assert (told["gone"], told["deleted"], told["unchanged"]) == ([], 0, 7)
    assert json.loads(take(notes, other, "--json").stdout)["unchanged"] == 8


def remembered(store, data):
    """Change what a store remembers of the folder `notes`."""
    with bqstore.open_key_values(store, "default") as pairs:
        pairs.put({"notes": data}, "places of folders")


def test_an_earlier_place_that_may_not_be_looked_at_stopped_the_ingest(take, notes):
    """As of a folder that root has read, in its home, or one of a name too long for this machine."""
    assert take(notes).exit_code == 0
    remembered(notes.parent / "store", json.dumps(["/" + 300 * "x" + "/notes"]).encode())
    (notes / "a.md").unlink()
    told = json.loads(take(notes, "--prune", "--json").stdout)
    assert (told["added"], told["gone"]) == (0, [])  # those of the other place may all be there
    told = json.loads(take(notes, "--prune", "--json").stdout)
    assert told["gone"] == ["notes/a.md"] and told["deleted"]


def test_a_damaged_memory_of_places_is_an_error_with_a_name(take, notes):
    assert take(notes).exit_code == 0
    for data in (b"null", b"[1]", b"xx", b"\xff"):
        remembered(notes.parent / "store", data)
        result = take(notes)
        assert result.exit_code == 1 and "where notes was read before cannot be made out" in result.stderr
        assert "Traceback" not in result.stderr and result.exception.__class__ is SystemExit
    assert take(notes, "--moved").exit_code == 0 and take(notes).exit_code == 0


def test_a_row_replaced_one_of_another_folder_that_has_its_id(take, notes):
    assert take(notes).exit_code == 0
    rows = notes.parent / "rows"
    rows.mkdir()
    (rows / "r.csv").write_text("id,text\nx,another row\n")
    (rows / "s.csv").write_text("id,text\nfree,a row\n")
    result = take(rows)
    assert result.exit_code == 1 and "1 stored" in result.stdout
    assert "rows/r.csv was left out: a row has the id 'x', which one of notes/c.jsonl in the" in result.stderr
    (notes / "c.jsonl").rename(notes / "moved.jsonl")  # rows may change their file
    assert take(notes).exit_code == 0
    with bqstore.open(notes.parent / "store") as col:
        assert col.get(["x"])[0].metadata["source"] == "notes/moved.jsonl"
