"""The report of a recall measurement as one page: no request to any network, no document's text or id in it.

A function a part, from top to bottom; every text goes through `escape`. The figures are made in `figures.py`.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from html import escape

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from bqstore import RecallPoint, RecallReport, __version__

from . import figures, words
from .template import PROGRAM, document


def page(report: RecallReport, path: str, collection: str, when: datetime | None = None) -> str:
    """The whole page, as HTML. ``when``: the time of the measurement, now if None."""
    drawn = {name: figure.to_plotly_json() for name, figure in figures.all_figures(report).items() if figure.data}
    parts = (_head(report, path, collection), _plots(report.k, drawn), _points(report), _how(report, when))
    data = json.dumps(drawn, allow_nan=False).replace("<", "\\u003c")
    return document(f"Recall of {collection}", "\n".join(parts), data, (get_plotlyjs(), PROGRAM))


def _head(report: RecallReport, path: str, collection: str) -> str:
    """The verdict, and the figures of the setting in use."""
    now, floats, wanted = report.current, report.documents * report.dim * 4, words.wanted(report)
    found = f"of the {wanted} nearest documents, a search finds {report.recall * wanted:.1f} on average"
    steers = "exact search" if now.way == "exact" else words.setting(now).replace("=", " ")
    less = words.times_less(now.memory_bytes, floats)
    cards = (
        _card(
            f"recall@{report.k}",
            f"{report.recall:.3f}",
            found,
            f"95% interval: {words.interval(report.low, report.high)}",
        ),
        _card(
            "time of a search",
            f"{words.milliseconds(report.milliseconds)} ms",
            "median, on one thread",
            f"95 of 100 are done in {words.milliseconds(now.slowest)} ms",
        ),
        _card(
            "memory",
            words.size(now.memory_bytes),
            f"codes and links of {report.documents:,} documents",
            f"{less} than the vectors as float32: {words.size(floats)}"
            if less
            else f"as float32: {words.size(floats)}",
        ),
        _card("setting in use", steers, words.codes(now.quantization), words.way(now.way)),
    )
    return f"""<header>
<h1>What searches of “{escape(collection)}” find</h1>
<p class="path">{escape(path)}</p>
<p class="verdict">{escape(report.verdict)}</p>
<dl class="cards">{"".join(cards)}</dl>
</header>"""


def _card(name: str, figure: str, *notes: str) -> str:
    """One large figure with a name and what it says."""
    said = "".join(f'<dd class="note">{escape(note)}</dd>' for note in notes)
    return f'<div><dt>{escape(name)}</dt><dd class="figure">{escape(figure)}</dd>{said}</div>'


def _plots(k: int, drawn: Iterable[str]) -> str:
    """The places of the figures, each with a few words on how to read it."""
    texts = {
        "time": (
            "What a search finds, and how long it takes",
            f"Each marker is one setting; higher finds more of the true {k} nearest, further left is faster. Filled: "
            "measured on the codes that are stored. Open: on codes made for this report. The bars are 95% intervals: "
            "two settings whose bars overlap much may be equally good. The table below has every number.",
        ),
        "oversampling": (
            "What it helps to look at more candidates",
            f"Codes are coarse, so a search takes more candidates than the {k} it was asked for (oversampling says how "
            "many times more), and orders them by their original vectors. Where a line is flat, more candidates cost "
            "time and find nothing more.",
        ),
        "scores": (
            "How far the nearest stand out",
            "Scores of the nearest documents beside scores of documents picked at random. The less the two overlap, "
            "the easier the nearest are to find.",
        ),
        "memory": (
            "What each encoding takes in memory",
            "For all documents of the collection. Codes, and the links of the graph where there is one, are kept in "
            "memory; the original vectors stay on disk.",
        ),
    }
    return "\n".join(_plot(name, *texts[name]) for name in drawn)


def _plot(name: str, title: str, text: str) -> str:
    """The place of one figure."""
    return f"""<section>
<h2 id="{name}-title">{escape(title)}</h2>
<figure>
<figcaption><p>{escape(text)}</p></figcaption>
<div class="plot" id="{name}" role="img" aria-labelledby="{name}-title"></div>
<noscript><p>This figure is drawn by JavaScript, which is off here; the table below has its numbers.</p></noscript>
</figure>
</section>"""


def _points(report: RecallReport) -> str:
    """The table of all settings, a group of rows for each encoding."""
    names = ("", "oversampling", "hnsw_ef", f"recall@{report.k}", "95% interval", "median ms", "95 of 100 ms", "memory")
    heads = "".join(f'<th scope="col">{name}</th>' for name in (*names, "way", "query_encoding"))
    bodies = []
    for name, points in words.groups(report.points).items():
        head = f'<tr><th scope="rowgroup" colspan="10">{escape(name)}</th></tr>'
        bodies.append("\n".join(("<tbody>", head, *(_row(report, point) for point in points), "</tbody>")))
    return f"""<section>
<h2 id="table-title">All settings that were measured</h2>
<p>“stored”: measured on the codes that the collection keeps. “trial”: on codes made for this report. A “scan” compares
all codes, a “walk” follows the graph. Oversampling “off”: ordered by the codes alone.</p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="table-title">
<table>
<thead><tr>{heads}</tr></thead>
{"".join(bodies)}
</table>
</div>
</section>"""


def _row(report: RecallReport, point: RecallPoint) -> str:
    """One setting in the table."""
    rank = words.rank(report, point)
    cells = (
        words.oversampling(point),
        words.beam(point),
        f"{point.recall:.3f}",
        words.interval(point.low, point.high),
        words.milliseconds(point.milliseconds),
        words.milliseconds(point.slowest),
        words.size(point.memory_bytes),
        point.way,
        point.quantization.query_encoding,
    )
    kind = ' class="current"' if rank == "in use" else ""
    return f'<tr{kind}><th scope="row">{rank}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _how(report: RecallReport, when: datetime | None) -> str:
    """How it was measured, for a person who has not done so before."""
    when = when or datetime.now().astimezone()
    if report.held_out:
        asked = (
            f"{report.queries:,} documents of the collection were used as queries, each left out of its own answer. "
            "People's questions may be harder than documents: give their embeddings with --queries to know."
        )
    else:
        asked = f"{report.queries:,} queries that were given."
    facts = {
        f"Recall@{report.k}": f"For each query the true {words.wanted(report)} nearest were found by comparing it with "
        "the original vector of every document. Recall is the share of them that a search with the setting gave: 1.000 "
        "is all of them, for every query.",
        "Queries": asked,
        "Documents": f"{report.documents:,} vectors of {report.dim:,} dimensions, compared by "
        f"{_distance(report.distance)}.",
        "Settings that are not in use": words.small(report),
        "Encodings that are not stored": f"Codes of {report.scanned:,} documents were made for this report and "
        "compared one by one, without a graph. Their times are for that many documents."
        if report.scanned
        else "",
        "95% interval": "Another sample of queries would give another recall. The interval says how much that may be: "
        "it was found by drawing as many queries from the sample again and again (bootstrap), and it is never narrower "
        "than so few queries can tell.",
        "Time": "One query at a time, on one thread; the median. On another machine, or under load, it differs.",
        "Measured": f"{when:%Y-%m-%d %H:%M %Z}, with bqstore {__version__}.",
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text)
    return f'<section>\n<h2>How this was measured</h2>\n<dl class="how">{listed}</dl>\n</section>'


def _distance(name: str) -> str:
    return {"cosine": "the cosine", "dot": "the dot product", "euclid": "the Euclidean distance"}.get(name, name)
