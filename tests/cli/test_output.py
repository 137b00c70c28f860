"""What commands print: help, narrow terminals, long paths, lists of collections, --json everywhere, one-line errors."""

import errno
import io
import json
import logging
import sys
import warnings
from dataclasses import replace

import pytest
import typer

import bqstore
from bqstore.cli import console, main, options
from tests.cli import given
from tests.conftest import clustered


@pytest.mark.parametrize("words", [["-h"], ["info", "-h"], ["search", "--help"]])
def test_help_is_plain_text(run, words):
    result = run(*words)
    assert result.exit_code == 0 and "-h, --help" in result.stdout
    assert result.stdout.isascii() and "<bool>" not in result.stdout


def test_help_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    command = typer.main.get_command(options.app)
    with typer.Context(command, info_name="bqstore") as context:
        lines = command.get_help(context).splitlines()
    assert 40 < max(map(len, lines)) <= 50


def test_every_command_is_listed_and_has_json_and_help(run):
    for name in options.Commands.ORDER:
        if name in run("--help").stdout:
            text = run(name, "-h").stdout
            assert "--json" in text or name == "mcp", name


def test_info_lists_the_collections_of_a_store(run, store):
    with bqstore.open(store, "notes") as col:
        col.add(clustered(20, 8))
    text = run("info", store).stdout
    rows = [line.split() for line in text.splitlines()]
    assert ["default", "300", "32"] in [row[:3] for row in rows] and ["notes", "20", "8"] in [row[:3] for row in rows]
    assert "Collection default" in text and "Collection notes" in text
    for i in range(3):
        bqstore.open(store, f"more-{i}").close()
    text = run("info", store).stdout
    assert "more-2" in text and "Collection default" not in text
    assert "Collection notes" in run("info", store, "--collection", "notes").stdout


def test_the_only_collection_needs_no_name(run, tmp_path):
    with bqstore.open(tmp_path, "notes") as col:
        col.add(clustered(20, 8))
    result = run("info", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "") and "Collection notes" in result.stdout
    bqstore.open(tmp_path, "others").close()
    result = run("compact", tmp_path, "--collection", "nots")
    assert result.exit_code == 1 and "--collection takes one of: notes, others" in result.stderr
    result = run("search", tmp_path, "--filter", "{}")
    assert result.exit_code == 1 and "no collection 'default'" in result.stderr and "notes, others" in result.stderr


def test_info_as_json(run, store):
    found = json.loads(run("info", store, "--json").stdout)
    assert found["versions"]["bqstore"] == bqstore.__version__
    (only,) = found["collections"]
    assert (only["collection"], only["count"], only["dim"]) == ("default", 300, 32)
    assert json.loads(run("info", "--json").stdout)["collections"] == []


@pytest.mark.parametrize("columns", [50, 80])
def test_a_long_path_is_not_broken(run, tmp_path, monkeypatch, columns):
    path = tmp_path / ("a long name of a folder " * 4).replace(" ", "-") / "store"
    with bqstore.open(path) as col:
        col.add(clustered(20, 8))
    monkeypatch.setenv("COLUMNS", str(columns))
    assert str(path) in run("info", path).stdout


def test_narrow_tables_keep_the_first_column(run, store, asked, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    text = run("recall", store).stdout
    words = " ".join(text.split())
    assert all(name in words for name in ("1 bit, sign", "1 bit, RaBitQ", "in use"))
    assert "…" not in text and max(map(len, text.splitlines())) <= 50
    assert "95% interval" not in text.partition("Settings measured")[2]


def test_the_verdict_on_the_terminal_named_a_call_of_python(run, store, monkeypatch):
    report = given.report(verdict="They find 80.1%. Next step: tune(); at oversampling 8 they find 97%.")
    monkeypatch.setattr(bqstore.Collection, "recall", lambda self, *_, **__: report)
    assert f"bqstore tune {store} --target 0.95" in run("recall", store).stdout.splitlines()[-1]


@pytest.mark.parametrize("columns", [60, 70])
def test_words_of_the_first_column_were_broken_where_the_terminal_is_narrow(run, store, asked, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = run("recall", store).stdout
    assert {"rotated", "RaBitQ,", "(scalar4bits)"} <= set(text.split())
    assert "…" not in text and max(map(len, text.splitlines())) <= columns


def test_settings_that_look_the_same_are_one_row(run, store, monkeypatch):
    scanned = [replace(given.points()[0], way="scan", hnsw_ef=ef, oversampling=7.5, rescore=True) for ef in (256, 512)]
    report = given.report(points=(given.report().current, *scanned))
    monkeypatch.setattr(bqstore.Collection, "recall", lambda self, *_, **__: report)
    rows = [line for line in run("recall", store).stdout.splitlines() if line.split()[:2] == ["7.5", "-"]]
    assert len(rows) == 1


def test_tune_and_warm_up_as_json(run, store, monkeypatch):
    found = bqstore.SearchParams(oversampling=3.5, hnsw_ef=96)
    monkeypatch.setattr(bqstore.Collection, "tune", lambda self, target, k, queries: found)
    told = json.loads(run("tune", store, "--target", 0.9, "--json").stdout)
    assert (told["oversampling"], told["hnsw_ef"]) == (3.5, 96)
    assert json.loads(run("warm-up", "--only", "core", "--json").stdout)["compiled"] is True


def test_names_of_collections_complete(store):
    bqstore.open(store, "notes").close()
    context = type("Context", (), {"params": {"path": str(store)}})
    assert options.names_to_complete(context, "no") == ["notes"]
    context.params = {"path": "\0"}
    assert options.names_to_complete(context, "") == []


# ---- compact and copy


def test_compact_gives_back_what_was_deleted(run, store):
    with bqstore.open(store) as col:
        col.delete(col.ids()[:100])
        col.flush()
    told = json.loads(run("compact", store, "--json").stdout)["default"]
    assert (told["documents"], told["removed"]) == (200, 100)
    result = run("compact", store)
    assert result.exit_code == 0 and "0 deleted or replaced documents" in result.stdout
    with bqstore.open(store, read_only=True) as col:
        assert (len(col), col.info().deleted) == (200, 0)


def test_copy_into_another_store_and_under_another_name(run, store, tmp_path):
    bqstore.open(store, "notes").close()
    result = run("copy", store, tmp_path / "other")
    assert (result.exit_code, result.stderr) == (0, "") and bqstore.collections(tmp_path / "other") == [
        "default",
        "notes",
    ]
    told = run("copy", store, store, "--as", "before", "--json")
    assert json.loads(told.stdout) == {"default": "before"}
    with bqstore.open(store, "before", read_only=True) as col:
        assert len(col) == 300
    again = run("copy", store, tmp_path / "other")
    assert again.exit_code == 1 and "Traceback" not in again.stderr and "default" in again.stderr
    gone = run("copy", tmp_path / "nowhere", tmp_path / "third")
    assert gone.exit_code == 1 and "there is no folder" in gone.stderr and not (tmp_path / "third").exists()


def test_upkeep_as_json(run, store, tmp_path):
    assert json.loads(run("backup", store, tmp_path / "b", "--json").stdout)["default"]["documents"] == 300
    assert json.loads(run("repair", store, "--to", tmp_path / "r", "--json").stdout)["default"]["documents"] == 300
    told = json.loads(run("export", store, tmp_path / "x.jsonl", "--json").stdout)
    assert (told["documents"], told["distance"]) == (300, "cosine")


def test_a_reader_that_is_gone_is_no_error(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    console.emit({"documents": 1})
    console.say("a line")
    console.show("a table")


def test_damaged_codes_are_made_anew_and_not_restored(run, store, capsys, monkeypatch):
    (file,) = (store / "default").glob("codes-*.bin")
    data = bytearray(file.read_bytes())
    data[-1] ^= 255
    file.write_bytes(data)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command replaces
    monkeypatch.setattr(sys, "argv", ["bqstore", "verify", str(store)])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        warnings.simplefilter("always")
        main()
    out, err = capsys.readouterr()
    assert stopped.value.code == 1 and "bqstore compact STORE" in out and "Restore" not in out
    assert err.startswith("bqstore: 1 codes in codes-0.bin were damaged") and err.count("\n") == 1
    with pytest.warns(RuntimeWarning):
        assert run("compact", store).exit_code == 0
    result = run("verify", store)
    assert result.exit_code == 0 and "whole" in result.stdout


# ---- help, narrow tables, missing packages, Ctrl-C


@pytest.mark.parametrize("columns", [60, 80])
def test_no_sentence_of_help_is_cut(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    whole = run("--help").stdout
    assert "..." not in whole.replace("[ARGS]...", "") and all(name in whole for name in options.Commands.ORDER)
    command = typer.main.get_command(options.app)
    assert {*command.commands} == {*options.Commands.ORDER}
    for name in options.Commands.ORDER:
        text = run(name, "-h").stdout
        assert "<" not in text.replace("<=", "").replace("x<", ""), name  # no types of Python
        assert max(map(len, text.splitlines())) <= 80, name


@pytest.mark.parametrize("columns", [50, 60, 80])
def test_encodings_that_were_measured_have_their_whole_names(run, tmp_path, monkeypatch, columns):
    sign = given.SIGN
    trials = tuple(
        bqstore.Trial(each, 1000 + n, 0.9, 0.5, 1234.5) for n, each in enumerate([sign, *(t[0] for t in given.TRIALS)])
    )
    chosen = bqstore.Choice("the smallest code", 2488, 512, 10, 3.0, trials)
    with bqstore.open(tmp_path) as col:
        col.add(clustered(20, 8))
        found = replace(col.info(), choice=chosen, quantization=sign)
    monkeypatch.setattr(bqstore.Collection, "info", lambda self: found)
    monkeypatch.setenv("COLUMNS", str(columns))
    text = run("info", tmp_path).stdout
    assert "1 bit, RaBitQ, rotated" in text and "in use" in text and "1,007" in text and "recall@10" in text


def test_a_package_that_is_missing_is_one_line_that_names_it(run, store, monkeypatch):
    def missing(*arguments, **keywords):
        raise ImportError('OpenAIEmbedder needs the openai package: pip install "bqstore[openai]"', name="openai")

    monkeypatch.setattr(bqstore, "OpenAIEmbedder", missing)
    for words in (("reembed", store, "--model", "m", "--yes"), ("search", store, "x", "--embedder", "openai:m")):
        result = run(*words)
        assert (result.exit_code, result.stderr) == (
            1,
            "bqstore: OpenAIEmbedder needs the openai package: pip install openai\n",
        )


def test_repair_of_a_folder_that_does_not_exist(run, tmp_path):
    result = run("repair", tmp_path / "nowhere", "--to", tmp_path / "other")
    assert (result.exit_code, result.stderr) == (1, f"bqstore: there is no folder {tmp_path / 'nowhere'}\n")


def test_ctrl_c_before_a_command_begins_is_told(run, store, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "debug", interrupted)  # of the options before the command
    result = run("info", store)
    assert (result.exit_code, result.stderr) == (130, "Stopped.\n")


def test_the_command_imports_little_before_ctrl_c_is_handled():
    import subprocess

    program = "import sys; was = {*sys.modules}; import bqstore.cli; print(*sorted({*sys.modules} - was))"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    assert "typing" not in done.stdout.split() and "bqstore.cli" in done.stdout.split()


def test_a_missing_qdrant_client_was_answered_by_a_package_that_is_not_to_be_had(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    result = run("search", "qdrant://127.0.0.1:1/notes", "--filter", "{}")
    assert result.exit_code == 1 and result.stderr.rstrip().endswith("pip install qdrant-client"), result.stderr


def test_the_title_of_info_showed_marks_of_direction_as_they_are(run, tmp_path):
    path = tmp_path / "all\u202e"
    for name in ("a\u202eb", *"cdef"):
        bqstore.open(path, name).close()
    for words in (["info", path], ["info", path, "--collection", "a\u202eb"]):
        text = run(*words).stdout
        assert "\u202e" not in text and r"a\u202eb" in text


def test_a_warning_sent_the_name_of_a_field_to_the_terminal_as_it_is(tmp_path, monkeypatch, capsys):
    with bqstore.open(tmp_path / "store") as col:
        col.add(clustered(2, 8), metadatas=[{"lang\x1b[2J\u202e": 1}] * 2)
    monkeypatch.setattr(sys, "argv", ["bqstore", "search", str(tmp_path / "store"), "--filter", '{"lang": 2}'])
    monkeypatch.setattr(logging.getLogger("bqstore"), "handlers", [])
    with pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
        main()
    told = capsys.readouterr().err
    assert stopped.value.code == 0 and r"lang\x1b[2J\u202e" in told and "\x1b" not in told and "\u202e" not in told
