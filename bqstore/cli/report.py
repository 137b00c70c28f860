"""A recall report as one HTML page, without network requests and without text or ids of documents.

One function for each part of the page, from top to bottom. Every text is escaped by `shown`.
"""

from collections.abc import Iterable
from datetime import datetime

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from bqstore import RecallPoint, RecallReport, __version__

from . import figures, formatting
from .template import PROGRAM, as_json, card, document, shown

_FOLDED = ("oversampling", "scores")


def page(report: RecallReport, path: str, collection: str, when: datetime | None = None) -> str:
    """Return the whole page as HTML. ``when`` is the time of the measurement; None: now."""
    drawn = {name: figure.to_plotly_json() for name, figure in figures.all_figures(report).items() if figure.data}
    parts = (_head(report, path, collection), _plots(report, drawn), points(report), _how(report, when))
    return document(f"Recall of {collection}", "\n".join(parts), as_json(drawn), (get_plotlyjs(), PROGRAM))


def _head(report: RecallReport, path: str, collection: str) -> str:
    """The verdict, and the main figures of the settings in use."""
    now, floats, sought = report.current, report.documents * report.dim * 4, formatting.nearest_sought(report)
    found = f"of the {sought} nearest documents, a search finds {report.recall * sought:.1f} on average"
    in_use = "exact search" if now.way == "exact" else formatting.settings(now).replace("=", " ")
    less = formatting.times_less(now.memory_bytes, floats)
    cards = (
        card(
            f"recall@{report.k}",
            f"{report.recall:.3f}",
            found,
            f"95% interval: {formatting.interval(report.low, report.high)}",
        ),
        card(
            "time of a search",
            f"{formatting.milliseconds(report.milliseconds)} ms",
            "median, on one thread",
            f"95 of 100 take at most {formatting.milliseconds(now.slowest)} ms",
        ),
        card(
            "memory",
            formatting.size(now.memory_bytes),
            f"codes and links of {report.documents:,} documents",
            f"{less} than the vectors as float32: {formatting.size(floats)}"
            if less
            else f"as float32: {formatting.size(floats)}",
        ),
        card("setting in use", in_use, formatting.encoding(now.quantization), formatting.SEARCHES[now.way]),
    )
    return f"""<header>
<h1>Recall of searches in “{shown(collection)}”</h1>
<p class="path">{shown(path)}</p>
<p class="verdict">{shown(report.verdict)}</p>
<p class="todo">{to_do(report, path, collection)}</p>
<dl class="cards">{"".join(cards)}</dl>
</header>"""


def to_do(report: RecallReport, path: str, collection: str) -> str:
    """The verdict's next step as a command or code; or that there is none."""
    words, code = formatting.to_do(report, path, collection)
    return shown(words) + (f" <code>{shown(code)}</code>" if code else "")


def _plots(report: RecallReport, drawn: Iterable[str]) -> str:
    """The figures' elements, each with a short text on how to read it; less important ones are folded."""
    texts = {
        "time": (
            "Recall and time of a search",
            f"{about_time(report)} The table below has all numbers.",
        ),
        "memory": (
            "Memory of each encoding",
            "For all documents of the collection. Codes and the links of the graph, if there is one, are kept in "
            "memory; the original vectors stay on disk.",
        ),
        "oversampling": (
            "What more candidates gain",
            f"Codes are approximate, so a search takes more candidates than the {report.k} it was asked for "
            "(oversampling says how many times more) and ranks them by their original vectors. Where a line is flat, "
            "more candidates cost time and find nothing more.",
        ),
        "scores": (
            "How well scores separate the nearest documents",
            "Scores of the nearest documents, and scores of documents picked at random. The less the two overlap, the "
            "easier the nearest are to find.",
        ),
    }
    there = set(drawn)
    return "\n".join(_plot(name, *texts[name], folded=name in _FOLDED) for name in texts if name in there)


def about_time(report: RecallReport) -> str:
    """How to read the figure of recall and time."""
    differ = (
        " Times of walks and of scans do not compare: markers with a dot were walks of the graph, the others scans of "
        "all codes. Codes made for this report have no graph, so they were scanned; stored in its place, they would be "
        "walked, too."
    )
    return (
        f"Each marker is one setting. Higher: it finds more of the true {report.k} nearest. Further left: it is "
        "faster. Filled markers were measured on the stored codes, open ones on codes made for this report."
        f"{differ if formatting.walks_and_scans(report) else ''} The bars are 95% confidence intervals: two "
        "settings whose bars overlap much may be equally good."
    )


def _plot(name: str, title: str, text: str, folded: bool = False) -> str:
    """The element of one figure; if folded, its heading opens it."""
    heading = f'<h2 id="{name}-title">{shown(title)}</h2>'
    figure = f"""<figure>
<figcaption><p>{shown(text)}</p></figcaption>
<div class="plot" id="{name}" role="img" aria-labelledby="{name}-title"></div>
<noscript><p>This figure is drawn by JavaScript, which is disabled; the table below has its numbers.</p></noscript>
</figure>"""
    if folded:
        return f"<details>\n<summary>{heading}</summary>\n{figure}\n</details>"
    return f"<section>\n{heading}\n{figure}\n</section>"


def points(report: RecallReport) -> str:
    """The table of all settings under its heading."""
    return f'<section>\n<h2 id="table-title">All settings that were measured</h2>\n{points_table(report)}\n</section>'


def points_table(report: RecallReport, heading: str = "table-title") -> str:
    """The table of all settings, with a group of rows for each encoding; ``heading`` is the id of its heading."""
    names = ("", "oversampling", "hnsw_ef", f"recall@{report.k}", "95% interval", "median ms", "95 of 100 ms", "memory")
    heads = "".join(f'<th scope="col">{name}</th>' for name in (*names, "search", "query_encoding"))
    bodies = []
    for name, group in formatting.by_encoding(report.points).items():
        head = f'<tr><th scope="rowgroup" colspan="10">{shown(name)}</th></tr>'
        bodies.append("\n".join(("<tbody>", head, *(_row(report, point) for point in group), "</tbody>")))
    return f"""<p>“stored”: measured on the stored codes. “trial”: on codes made for this report. A “scan” compares all
codes, a “walk” follows the graph. Oversampling “off”: ranked by the codes alone.</p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="{heading}">
<table>
<thead><tr>{heads}</tr></thead>
{"".join(bodies)}
</table>
</div>"""


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
    return f'<tr{kind}><th scope="row">{status}</th>' + "".join(f"<td>{shown(cell)}</td>" for cell in cells) + "</tr>"


def _how(report: RecallReport, when: datetime | None) -> str:
    """How recall was measured, for newcomers."""
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
    listed = "".join(f"<dt>{shown(name)}</dt><dd>{shown(text)}</dd>" for name, text in facts.items() if text)
    return f'<section>\n<h2>How this was measured</h2>\n<dl class="how">{listed}</dl>\n</section>'


def _distance(name: str) -> str:
    return {"cosine": "the cosine", "dot": "the dot product", "euclid": "the Euclidean distance"}[name]
