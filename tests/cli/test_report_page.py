"""The report page: complete, no network request, every text escaped, figures drawn in a real browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from bqstore import Histogram, __version__
from bqstore.cli import figures, formatting
from bqstore.cli.report import page
from tests.cli import given

HOSTILE = "</title></script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"'&<!--"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IN_A_BROWSER = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH (apt-get install chromium)")


def made(report=None, path="/data/store", collection="default"):
    return page(report or given.report(), path, collection, datetime(2030, 1, 2, 3, 4, tzinfo=timezone.utc))


def exact():
    """The report of a collection so small that nothing but exact search was measured."""
    point = given.point(given.SIGN, 3.0, None, 1.0, way="exact", milliseconds=0.01, memory_bytes=0, low=1.0, high=1.0)
    return given.report(
        current=point,
        points=(point,),
        recall=1.0,
        low=1.0,
        high=1.0,
        documents=3,
        scanned=0,
        scores=Histogram((0.0, 1.0), (0,), (0,)),
    )


class Reader(HTMLParser):
    """What a browser sees: tags with their attributes, visible text, and the contents of scripts and styles."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self.styles, self.open = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags are closed in their order"

    def handle_data(self, data):
        {"script": self.scripts, "style": self.styles}.get(self.open[-1] if self.open else "", self.text).append(data)

    def ids(self):
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]

    def said(self):
        return " ".join(" ".join(self.text).split())


# ---- without a browser


@pytest.mark.parametrize("report", [given.report(), exact()], ids=["everything", "hardly anything"])
def test_nothing_is_fetched(report):
    read = Reader(made(report))
    assert read.open == []
    for tag, attrs in read.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "a", "form", "video", "audio", "source")
        assert not {"src", "href", "srcset", "action", "background", "poster"} & attrs.keys(), tag
        assert not [name for name in attrs if name.startswith("on")], tag
    (style,) = read.styles
    assert not re.search(r"@import|url\(|https?:|//", style)
    data, library, program = read.scripts
    assert library == get_plotlyjs()  # once; it fetches for maps only, and the policy forbids it that
    assert not re.search(r"https?:", data + program)


def test_the_policy_allows_the_pages_own_programs_and_nothing_else():
    read = Reader(made())
    (policy,) = [attrs["content"] for _, attrs in read.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in read.scripts[1:]]
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == [f"'sha256-{digest}'" for digest in digests]
    assert not any("http" in source or source == "*" for sources in rules.values() for source in sources)


def test_the_page_says_what_was_measured():
    report = given.report()
    said = Reader(made(report)).said()
    for text in (
        report.verdict,
        f"{report.recall:.3f}",
        formatting.interval(report.low, report.high),
        "of the 10 nearest documents, a search finds 9.7 on average",
        "200 documents of the collection were used as queries, each left out of its own result",
        "20,093 vectors of 1,536 dimensions, compared by the cosine",
        "2030-01-02 03:04 UTC",
        f"bqstore {__version__}",
        "/data/store",
    ):
        assert text in said
    assert "200 queries from a file" in Reader(made(replace(report, held_out=False))).said()


def test_the_table_has_every_setting():
    report = given.report()
    tags = Reader(made(report)).tags
    rows = [attrs for tag, attrs in tags if tag == "th" and attrs.get("scope") == "row"]
    assert len(rows) == len(report.points)
    assert sum(tag == "tr" and attrs.get("class") == "current" for tag, attrs in tags) == 1


def test_what_a_user_has_named_is_text():
    hostile = made(given.report(verdict=HOSTILE), path=HOSTILE, collection=HOSTILE)
    plain, read = Reader(made()), Reader(hostile)
    assert read.tags[: len(plain.tags)] == plain.tags
    assert read.scripts == plain.scripts
    assert read.said().count(HOSTILE) == 4  # title, heading, path, verdict
    assert HOSTILE not in hostile


def test_each_figure_has_its_place_and_a_heading():
    read = Reader(made())
    drawn = json.loads(read.scripts[0])
    assert list(drawn) == ["time", "oversampling", "scores", "memory"]
    for name in drawn:
        assert {name, f"{name}-title"} <= set(read.ids())
    assert len(set(read.ids())) == len(read.ids())


def test_a_figure_with_nothing_in_it_has_no_place():
    read = Reader(made(exact()))
    assert list(json.loads(read.scripts[0])) == ["time", "scores", "memory"]
    assert "oversampling" not in read.ids()
    assert "The collection is small" in read.said()


TUNE = "Your searches find 90.0% of the true 10 nearest. Next step: tune(); at oversampling 4 these codes find 98.0%."
MORE_BITS = "Your searches find 60.0%. Next step: requantize(encoding='two_bits', estimator='rabitq'), and take more."


@pytest.mark.parametrize(
    "verdict, told",
    [
        ("Your searches find 99.0% of the true 10 nearest: nothing to do.", "What to do: nothing."),
        (TUNE, "by bqstore tune '/data/my store' --collection notes --target 0.95"),
        (MORE_BITS, "bqstore.open('/data/my store', 'notes').requantize(encoding='two_bits', estimator='rabitq')"),
    ],
)
def test_the_next_step_stands_above_all_figures_as_it_is_typed(verdict, told):
    said = Reader(made(given.report(verdict=verdict), "/data/my store", "notes")).said()
    assert told in said and said.index("What to do") < said.index("recall@10")


def test_names_do_not_turn_the_line_around():
    text = made(given.report(verdict="\u202e\u2028"), "a\u2066b", "c\u200fd")
    assert not set("\u202e\u2028\u2066\u200f") & set(text)
    said = Reader(text).said()
    assert all(escape in said for escape in ("\\u202e", "\\u2028", "a\\u2066b", "c\\u200fd"))


def test_what_few_read_is_folded_away():
    text = made()
    folded = re.findall(r'<details>.*?<div class="plot" id="(\w+)"', text, re.DOTALL)
    assert folded == ["oversampling", "scores"] and "<details open" not in text


def test_walks_and_scans_on_one_axis_are_told_apart():
    report = given.report()
    assert "Times of walks and of scans do not compare" in Reader(made(report)).said()
    figure = figures.recall_against_time(report)
    assert "(markers with a dot: walks)" in figure.layout.xaxis.title.text
    ways = {point: point.way for point in report.points}
    for trace, points in zip(figure.data, formatting.by_encoding(report.points).values(), strict=False):
        for symbol, point in zip(trace.marker.symbol, points, strict=True):
            assert symbol.endswith("-dot") == (ways[point] == "walk")
    scans = replace(report, points=tuple(replace(point, way="scan") for point in report.points))
    assert "do not compare" not in Reader(made(scans)).said()


# ---- the figures


def test_every_setting_is_a_marker_and_hovering_tells_all_of_it():
    report = given.report()
    *groups, ring = figures.recall_against_time(report).data
    assert sum(len(trace.x) for trace in groups) == len(report.points)
    assert (ring.x, ring.y) == ((report.current.milliseconds,), (report.current.recall,))
    hovers = [text for trace in groups for text in trace.text]
    (current,) = [text for text in hovers if "(in use)" in text]
    q = report.current.quantization
    for text in (
        f"encoding={q.encoding}, estimator={q.estimator}, rotate={q.rotate}",
        f"query_encoding={q.query_encoding}",
        "oversampling=3, rescore=True, hnsw_ef=None",
        formatting.interval(report.low, report.high),
    ):
        assert text in current


def test_error_bars_end_where_the_intervals_do():
    report = given.report()
    for trace, points in zip(
        figures.recall_against_time(report).data, formatting.by_encoding(report.points).values(), strict=False
    ):
        bars = trace.error_y
        assert [y + up for y, up in zip(trace.y, bars.array, strict=True)] == pytest.approx([p.high for p in points])
        assert [y - d for y, d in zip(trace.y, bars.arrayminus, strict=True)] == pytest.approx([p.low for p in points])


def test_stored_and_tried_are_told_apart_without_color():
    for trace in figures.recall_against_time(given.report()).data[:-1]:
        stored = "(stored)" in trace.text[0] or "(in use)" in trace.text[0]
        assert all(symbol.endswith("-open") != stored for symbol in trace.marker.symbol)
    lines = figures.recall_against_oversampling(given.report()).data
    assert len({trace.marker.symbol for trace in lines}) == len(lines)
    assert len({(trace.line.dash, trace.marker.symbol) for trace in lines}) == len(lines)


def test_a_line_takes_the_beam_that_finds_the_most_and_only_what_is_rescored():
    report = given.report()
    (line,) = [t for t in figures.recall_against_oversampling(report).data if t.name == "1 bit, sign (scalar4bits)"]
    assert line.x == (1.0, 2.0, 3.0, 4.0, 8.0)
    for x, y in zip(line.x, line.y, strict=True):
        same = [p for p in report.points if p.oversampling == x and p.quantization == given.SIGN and p.rescore]
        assert y == max(p.recall for p in same)


def test_histograms_are_shares_of_their_own_sums():
    report = given.report()
    others, neighbors = figures.scores(report).data
    assert sum(others.y) == pytest.approx(1.0)
    assert sum(neighbors.y) == pytest.approx(1.0)
    assert others.line.dash != neighbors.line.dash
    at = report.scores.neighbors.index(max(report.scores.neighbors))
    low, high, share = *report.scores.edges[at : at + 2], max(neighbors.y)
    assert neighbors.text[at] == f"{low:.3g} to {high:.3g}: {share:.1%}"


# ---- in a browser


def opened(folder, text, *options):
    """Load a page in chromium; return its document after its scripts have run, and the lines of its console."""
    file = folder / "report.html"
    file.write_text(text, "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=5000",
        *options,
    ]
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@IN_A_BROWSER
@pytest.mark.parametrize("width", [400, 1400])
def test_the_figures_are_drawn(tmp_path, width):
    document, complaints = opened(tmp_path, made(), f"--window-size={width},2000")
    assert complaints == []
    drawn = document[: document.index('id="figures"')]  # the programs hold these names, too
    assert len(re.findall(r'<svg[^>]*class="main-svg"', drawn)) >= 4
    groups = len(formatting.by_encoding(given.report().points))
    # a trace for every group, and the ring; a line for every group; two histograms
    assert len(re.findall(r'class="trace scatter', drawn)) == groups + 1 + groups + 2
    assert len(re.findall(r'class="trace bars"', drawn)) == 1  # memory
    assert "NaN" not in drawn


@IN_A_BROWSER
def test_hardly_anything_is_drawn_without_complaint(tmp_path):
    document, complaints = opened(tmp_path, made(exact()))
    assert complaints == []
    assert "NaN" not in document[: document.index('id="figures"')]


@IN_A_BROWSER
def test_a_hostile_name_runs_nothing_in_a_browser(tmp_path):
    text = made(given.report(verdict=HOSTILE), path=HOSTILE, collection=HOSTILE)
    document, complaints = opened(tmp_path, text)
    assert complaints == []
    assert "<img" not in document[: document.index('id="figures"')]


@IN_A_BROWSER
def test_the_policy_stops_a_program_that_is_not_the_pages_own(tmp_path):
    text = made().replace("</header>", "</header><script>document.body.dataset.ran = 1</script>", 1)
    document, complaints = opened(tmp_path, text)
    assert 'data-ran="1"' not in document
    assert complaints
