"""A recall report as one HTML page. It makes no network request and contains no text or id of a document.

There is one function for each part of the page, from top to bottom. Every text goes through `escape`.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from html import escape

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from bqstore import RecallPoint, RecallReport, __version__

from . import figures, formatting
from .template import PROGRAM, document


def page(report: RecallReport, path: str, collection: str, when: datetime | None = None) -> str:
    """Return the whole page as HTML. ``when`` is the time of the measurement; None: now."""
    drawn = {name: figure.to_plotly_json() for name, figure in figures.all_figures(report).items() if figure.data}
    parts = (_head(report, path, collection), _plots(report.k, drawn), _points(report), _how(report, when))
    data = json.dumps(drawn, allow_nan=False).replace("<", "\\u003c")
    return document(f"Recall of {collection}", "\n".join(parts), data, (get_plotlyjs(), PROGRAM))


def _head(report: RecallReport, path: str, collection: str) -> str:
    """The verdict, and the main figures of the setting in use."""
    now, floats, sought = report.current, report.documents * report.dim * 4, formatting.nearest_sought(report)
    found = f"of the {sought} nearest documents, a search finds {report.recall * sought:.1f} on average"
    in_use = "exact search" if now.way == "exact" else formatting.settings(now).replace("=", " ")
    less = formatting.times_less(now.memory_bytes, floats)
    cards = (
        _card(
            f"recall@{report.k}",
            f"{report.recall:.3f}",
            found,
            f"95% interval: {formatting.interval(report.low, report.high)}",
        ),
        _card(
            "time of a search",
            f"{formatting.milliseconds(report.milliseconds)} ms",
            "median, on one thread",
            f"95 of 100 take at most {formatting.milliseconds(now.slowest)} ms",
        ),
        _card(
            "memory",
            formatting.size(now.memory_bytes),
            f"codes and links of {report.documents:,} documents",
            f"{less} than the vectors as float32: {formatting.size(floats)}"
            if less
            else f"as float32: {formatting.size(floats)}",
        ),
        _card("setting in use", in_use, formatting.encoding(now.quantization), formatting.SEARCHES[now.way]),
    )
    return f"""<header>
<h1>Recall of searches in “{escape(collection)}”</h1>
<p class="path">{escape(path)}</p>
<p class="verdict">{escape(report.verdict)}</p>
<dl class="cards">{"".join(cards)}</dl>
</header>"""


def _card(name: str, figure: str, *notes: str) -> str:
    """One large figure with its name and notes."""
    below = "".join(f'<dd class="note">{escape(note)}</dd>' for note in notes)
    return f'<div><dt>{escape(name)}</dt><dd class="figure">{escape(figure)}</dd>{below}</div>'


def _plots(k: int, drawn: Iterable[str]) -> str:
    """The figures' elements, each with a short text on how to read it."""
    texts = {
        "time": (
            "Recall and time of a search",
            f"Each marker is one setting. Higher: it finds more of the true {k} nearest. Further left: it is faster. "
            "Filled markers were measured on the stored codes, open ones on codes made for this report. The bars are "
            "95% confidence intervals: two settings whose bars overlap much may be equally good. The table below has "
            "all numbers.",
        ),
        "oversampling": (
            "What more candidates gain",
            f"Codes are approximate, so a search takes more candidates than the {k} it was asked for (oversampling "
            "says how many times more) and ranks them by their original vectors. Where a line is flat, more candidates "
            "cost time and find nothing more.",
        ),
        "scores": (
            "How well scores separate the nearest documents",
            "Scores of the nearest documents, and scores of documents picked at random. The less the two overlap, the "
            "easier the nearest are to find.",
        ),
        "memory": (
            "Memory of each encoding",
            "For all documents of the collection. Codes and the links of the graph, if there is one, are kept in "
            "memory; the original vectors stay on disk.",
        ),
    }
    return "\n".join(_plot(name, *texts[name]) for name in drawn)


def _plot(name: str, title: str, text: str) -> str:
    """The element of one figure."""
    return f"""<section>
<h2 id="{name}-title">{escape(title)}</h2>
<figure>
<figcaption><p>{escape(text)}</p></figcaption>
<div class="plot" id="{name}" role="img" aria-labelledby="{name}-title"></div>
<noscript><p>This figure is drawn by JavaScript, which is disabled; the table below has its numbers.</p></noscript>
</figure>
</section>"""


def _points(report: RecallReport) -> str:
    """The table of all settings, with a group of rows for each encoding."""
    names = ("", "oversampling", "hnsw_ef", f"recall@{report.k}", "95% interval", "median ms", "95 of 100 ms", "memory")
    heads = "".join(f'<th scope="col">{name}</th>' for name in (*names, "search", "query_encoding"))
    bodies = []
    for name, points in formatting.by_encoding(report.points).items():
        head = f'<tr><th scope="rowgroup" colspan="10">{escape(name)}</th></tr>'
        bodies.append("\n".join(("<tbody>", head, *(_row(report, point) for point in points), "</tbody>")))
    return f"""<section>
<h2 id="table-title">All settings that were measured</h2>
<p>“stored”: measured on the stored codes. “trial”: on codes made for this report. A “scan” compares all codes, a “walk”
follows the graph. Oversampling “off”: ranked by the codes alone.</p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="table-title">
<table>
<thead><tr>{heads}</tr></thead>
{"".join(bodies)}
</table>
</div>
</section>"""


def _row(report: RecallReport, point: RecallPoint) -> str:
    """One row of the table."""
    status = formatting.status(report, point)
    cells = (
        formatting.oversampling(point),
        formatting.hnsw_ef(point),
        f"{point.recall:.3f}",
        formatting.interval(point.low, point.high),
        formatting.milliseconds(point.milliseconds),
        formatting.milliseconds(point.slowest),
        formatting.size(point.memory_bytes),
        point.way,
        point.quantization.query_encoding,
    )
    kind = ' class="current"' if status == "in use" else ""
    return f'<tr{kind}><th scope="row">{status}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _how(report: RecallReport, when: datetime | None) -> str:
    """How it was measured, for readers who are new to it."""
    when = when or datetime.now().astimezone()
    if report.held_out:
        asked = (
            f"{report.queries:,} documents of the collection were used as queries, each left out of its own result. "
            "People's questions may be harder than documents: pass their embeddings with --queries to measure them."
        )
    else:
        asked = f"{report.queries:,} queries from a file."
    facts = {
        f"Recall@{report.k}": f"For each query the true {formatting.nearest_sought(report)} nearest documents were "
        "found by comparing it with every original vector. Recall is the share of them that a search with the setting "
        "found: 1.000 is all of them, for every query.",
        "Queries": asked,
        "Documents": f"{report.documents:,} vectors of {report.dim:,} dimensions, compared by "
        f"{_distance(report.distance)}.",
        "Settings that are not in use": formatting.exact_search_note(report),
        "Encodings that are not stored": f"Codes of {report.scanned:,} documents were made for this report and "
        "compared one by one, without a graph. Their times are for that many documents."
        if report.scanned
        else "",
        "95% interval": "Another sample of queries would give another recall; the interval says by how much. It comes "
        "from a bootstrap over the queries, and is never narrower than the number of queries allows.",
        "Time": "The median of one query at a time, on one thread. It differs on another machine or under load.",
        "Measured": f"{when:%Y-%m-%d %H:%M %Z}, with bqstore {__version__}.",
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text)
    return f'<section>\n<h2>How this was measured</h2>\n<dl class="how">{listed}</dl>\n</section>'


def _distance(name: str) -> str:
    return {"cosine": "the cosine", "dot": "the dot product", "euclid": "the Euclidean distance"}[name]
