"""A collection as one HTML page, without network requests; without JavaScript it shows plain tables.

One function for each part of the page, from top to bottom. Every text is escaped by `shown`. `view.js` reads the
documents from the table, so that the page contains them once; other data is on the page as JSON.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from bqstore import CollectionInfo, __version__

from . import figures, formatting, report, tables
from .template import PROGRAM, as_json, card, document, shown, visible
from .view_data import Document, Field, View

_NAMED = 5  # damaged documents listed by id


def page(view: View, path: str, when: datetime | None = None, served: str | None = None) -> str:
    """Return the whole page as HTML.

    Parameters
    ----------
    when : datetime or None     of reading; None: now
    served : str or None        the filter that a served page was asked for, which offers to ask for another
    """
    when = when or datetime.now().astimezone()
    drawn, sections = _figures(view), _sections(view, path, served)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items())
    parts = [_head(view, path, when), f'<nav aria-label="Parts of this page">{links}</nav>']
    for name, (title, html) in sections.items():
        parts.append(f'<section id="{name}" aria-labelledby="{name}-heading">')
        parts.append(f'<h2 id="{name}-heading">{title}</h2>\n{html}\n</section>')
    parts.append('<dialog id="document" aria-labelledby="document-title"></dialog>')
    here = files(__package__)
    scripts = (get_plotlyjs(), PROGRAM, here.joinpath("view.js").read_text("utf-8"))
    style = here.joinpath("view.css").read_text("utf-8")
    return document(
        f"{view.info.collection} - bqstore",
        "\n".join(parts),
        as_json({name: figure.to_plotly_json() for name, figure in drawn.items() if figure.data}),
        scripts,
        style=style,
        more={"view": as_json(_for_the_program(view))},
        forms="'none'" if served is None else "'self'",
    )


def _for_the_program(view: View) -> dict[str, Any]:
    """The data for the page's script: places on the map, fields as codes, the nearest of each document."""
    fields = [
        {
            "name": visible(each.name),
            "values": None if each.values is None else list(map(visible, each.values)),
            "codes": each.codes,
        }
        for each in view.fields
    ]
    nearest = [
        [[visible(other) if isinstance(other, str) else other, float(f"{score:.4g}")] for other, score in row]
        for row in view.nearest
    ]
    return {"places": view.places, "fields": fields, "nearest": nearest}


def _figures(view: View) -> dict[str, Any]:
    info, drawn = view.info, {}
    if view.report is not None:
        drawn["time"] = figures.recall_against_time(view.report)
        drawn["scores-plot"] = figures.scores(view.report)
    elif info.choice is not None:
        drawn["trials"] = figures.trials(info.choice, info.quantization)
    if view.report is None and view.scores is not None:
        drawn["scores-plot"] = figures.histogram(view.scores, "the nearest", info.distance)
    drawn["memory-plot"] = figures.bars(_in_memory(info), "in memory", gray=1)
    if info.disk_bytes:
        drawn["disk-plot"] = figures.bars(_on_disk(info), "on disk")
    return drawn


def _sections(view: View, path: str, served: str | None) -> dict[str, tuple[str, str]]:
    return {
        "documents": ("Documents", _documents(view, served)),
        "map": ("Map", _map(view)),
        "scores": ("Scores", _scores(view)),
        "recall": ("Recall and time", _recall(view, path)),
        "memory": ("Memory", _memory(view.info)),
        "health": ("Health", _health(view, path)),
    }


# ---- parts


def _head(view: View, path: str, when: datetime) -> str:
    info = view.info
    measured = info.recall.measured
    recall = ("exact", "every document is scored") if info.way == "exact" else ("not measured", "bqstore recall does")
    if measured is not None and info.way != "exact":
        recall = (f"{measured.recall:.3f}", f"95% interval: {formatting.interval(measured.low, measured.high)}")
    cards = (
        card(
            "documents", f"{info.count:,}", f"{info.dim or 0:,} dimensions, {info.distance}", info.embedding_model or ""
        ),
        card("memory", formatting.size(info.memory_bytes), f"on disk {formatting.size(info.disk_bytes)}"),
        card("recall", *recall, f"target {info.recall.target:g}" if info.recall.target else ""),
        card(
            "health",
            "damaged" if view.damaged else "ok" if info.recall.ok else "see below",
            formatting.SEARCHES[info.way],
        ),
    )
    others = ", ".join(view.others)
    beside = f'<p class="path">Other collections of the store (--collection shows one): {shown(others)}</p>'
    return f"""<header>
<h1>{shown(info.collection)}</h1>
<p class="path">{shown(path)}, read {when:%Y-%m-%d %H:%M %Z} with bqstore {__version__}</p>
{beside if others else ""}
<dl class="cards">{"".join(cards)}</dl>
</header>"""


def _documents(view: View, served: str | None) -> str:
    matching = "that match the filter" if view.wanted is not None else "of the collection"
    if len(view.documents) == view.matching:
        said = f"All {view.matching:,} documents {matching} are on this page."
    elif view.matching - len(view.documents) <= len(view.damaged):
        said = (
            f"{len(view.documents):,} of the {view.matching:,} documents {matching} are on this page; the others are "
            "damaged."
        )
    else:
        said = (
            f"{len(view.documents):,} of the {view.matching:,} documents {matching} are on this page, picked at "
            f"random; {_option('--documents')} takes more, {_option('--filter')} chooses which."
        )
    left_out = "".join(f"<li>{shown(each)}</li>" for each in view.left_out)
    rows = "\n".join(map(_row, view.documents))
    return f"""<p>{said}</p>
{f'<ul class="left-out">{left_out}</ul>' if left_out else ""}
{"" if served is None else _ask(served)}
<form id="controls" role="search" hidden>
<label class="wide">Search these documents: all words, in ids, texts and metadata
<input type="search" id="words" autocomplete="off"></label>
{"".join(_control(i, each) for i, each in enumerate(view.fields))}
<button type="reset">Show all</button>
</form>
<p id="found" role="status"></p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="documents-heading">
<table id="table">
<thead><tr><th scope="col">id</th><th scope="col">text</th><th scope="col">metadata</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<p id="pages" hidden><button type="button" id="before">Before</button> <span id="where"></span>
<button type="button" id="after">Next</button></p>"""


def _option(name: str) -> str:
    return f'<code class="option">{name}</code>'


def _row(each: Document) -> str:
    return (
        f'<tr><th scope="row" dir="auto">{shown(each.id)}</th><td dir="auto">{shown(each.text)}</td>'
        f'<td dir="auto">{shown(each.metadata)}</td></tr>'
    )


def _control(i: int, field: Field) -> str:
    """The control for a field: a choice of values, or a range of numbers."""
    name = shown(field.name)
    if field.values is None:
        return f"""<fieldset><legend>{name}</legend>
<label>from <input type="number" step="any" class="least" data-field="{i}"></label>
<label>to <input type="number" step="any" class="most" data-field="{i}"></label></fieldset>
"""
    order = sorted(range(len(field.values)), key=field.values.__getitem__)
    options = "".join(f'<option value="{code}">{shown(field.values[code])}</option>' for code in order)
    return f"""<label>{name}
<select class="value" data-field="{i}"><option value="">any</option>{options}
<option value="-1">without</option></select>
</label>
"""


def _ask(served: str) -> str:
    """The form of a served page that asks for other documents; it works without JavaScript."""
    return f"""<form method="get" id="ask">
<label class="wide">Take other documents from the store: a filter, such as <code>{{"year": {{"$gte": 2020}}}}</code>
<input type="text" name="filter" value="{shown(served)}" spellcheck="false" autocomplete="off"></label>
<button>Take them</button>
</form>"""


def _map(view: View) -> str:
    if not view.places:
        why = "it keeps no original vectors" if view.info.originals == "none" else "there are no documents"
        return f"<p>There is no map: {why}.</p>"
    options = "".join(f'<option value="{i}">{shown(each.name)}</option>' for i, each in enumerate(view.fields))
    return f"""<p>Each marker is a document of this page; near markers have similar vectors. The two directions are the
principal components, which hold {view.spread:.0%} of the variance: what is apart here is apart, what is near here may
be apart. What the search and the filters above leave out is faded.</p>
<div id="map-controls" class="controls" hidden>
<label>Color by <select id="color"><option value="">nothing</option>{options}</select></label>
<span role="group" aria-label="Zoom"><button type="button" id="closer">Zoom in</button>
<button type="button" id="farther">Zoom out</button> <button type="button" id="whole">Whole map</button></span>
</div>
<div class="plot" id="map-plot" tabindex="0" role="application"
aria-label="Map of the documents: plus and minus zoom, arrows move, 0 shows all. The table has the same documents.">
</div>
<noscript><p>The map is drawn by JavaScript, which is disabled.</p></noscript>"""


def _scores(view: View) -> str:
    if view.report is None and view.scores is None:
        return "<p>There are no scores: they take two documents and their original vectors.</p>"
    text = (
        "Scores of the nearest documents of each document, and scores of documents picked at random. The less the two "
        "overlap, the easier the nearest are to find. Choose a document in the table to see its nearest and their "
        "scores."
    )
    return f"<p>{text}</p>{_plot('scores-plot')}"


def _recall(view: View, path: str) -> str:
    info = view.info
    measure = f"<code>{shown(formatting.command('view', path, info.collection, '--recall'))}</code>"
    if view.report is not None:
        return (
            f'<p class="verdict">{shown(view.report.verdict)}</p>'
            f'<p class="todo">{report.to_do(view.report, path, info.collection)}</p>'
            f"<p>{shown(report.about_time(view.report))}</p>{_plot('time')}"
            f"{report.points_table(view.report, 'recall-heading')}"
        )
    known = f"<p>What the store knows: {shown(str(info.recall))}. Recall and time of other settings: {measure}</p>"
    if info.choice is None:
        return known
    rows = [
        (
            formatting.encoding(each.quantization),
            f"{each.recall:.3f}",
            f"{each.raw_recall:.3f}",
            f"{each.nanoseconds:.1f}",
            f"{each.code_bytes:,}",
        )
        for each in info.choice.trials
    ]
    names = ("codes", f"recall@{info.choice.k}", "codes alone", "ns a code", "bytes")
    said = (
        f"Encodings that were measured on {info.choice.vectors:,} documents when the collection chose its own. "
        f"{info.choice.reason}"
    )
    return f"{known}<p>{shown(said)}</p>{_plot('trials')}{_table(names, rows, 'recall-heading')}"


def _memory(info: CollectionInfo) -> str:
    rows = [(f"{name}, in memory", formatting.size(n)) for name, n in _in_memory(info).items()]
    rows += [(f"{name}, on disk", formatting.size(n)) for name, n in _on_disk(info).items()]
    plots = _plot("memory-plot") + (_plot("disk-plot") if info.disk_bytes else "")
    said = (
        "Codes and links are in memory while the collection is open, columns once a filter has used them. The first "
        "bar is what the vectors would take as float32."
    )
    return f"<p>{said}</p>{plots}{_table(('part', 'size'), rows, 'memory-heading')}"


def _in_memory(info: CollectionInfo) -> dict[str, int]:
    """Bytes by part; the first is the size of the float32 vectors, which are not in memory."""
    out = {"float32 (not kept)": info.count * info.vector_bytes}
    out |= {"codes": info.memory_bytes - info.graph_bytes, "links of the graph": info.graph_bytes}
    return {**out, **{f"column {name}": size for name, size in info.columns.items()}}


def _on_disk(info: CollectionInfo) -> dict[str, int]:
    slots = info.count + info.deleted
    out = {"documents": info.catalogue_bytes, "original vectors": slots * info.original_bytes}
    rest = info.disk_bytes - sum(out.values())
    return {**out, "codes, graph and others": max(0, rest)} if info.disk_bytes else {}


def _health(view: View, path: str) -> str:
    info = view.info
    first, *problems = str(info.recall).splitlines()
    said = [first, *problems]
    if view.damaged:
        said.insert(0, damage(view, path))
    if info.deleted:
        command = formatting.command("compact", path, info.collection)
        taken = "space, and time of searches" if info.compact_due else "space"
        said.append(f"{info.deleted:,} deleted or replaced documents take {taken}, which {command} gives back.")
    if info.linked:
        said.append(f"{info.linked:,} of {info.count:,} documents are in the graph; the others are scanned.")
    said.append(f"Kernels: {tables.KERNELS[info.kernels]}.")
    said.append(f"Files of format {info.format_version}, generation {info.generation}. They were not read through: ")
    said[-1] += f"{formatting.command('verify', path, info.collection)} reads every byte."
    listed = "".join(f"<li>{shown(each)}</li>" for each in said)
    return f'<ul class="health {"good" if info.recall.ok and not view.damaged else "bad"}">{listed}</ul>'


def _plot(name: str) -> str:
    return f'<div class="plot" id="{name}" role="img" aria-labelledby="{name.partition("-")[0]}-heading"></div>'


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]], heading: str) -> str:
    """A scrollable table of figures; the first column holds names."""
    heads = "".join(f'<th scope="col">{shown(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{shown(row[0])}</th>{"".join(f"<td>{shown(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return f"""<div class="scroll" tabindex="0" role="region" aria-labelledby="{heading}">
<table class="figures"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"""


def damage(view: View, path: str) -> str:
    """The damaged documents, and what to do."""
    named = ", ".join(view.damaged[:_NAMED]) + (", ..." if len(view.damaged) > _NAMED else "")
    verify, repair = (formatting.command(name, path, view.info.collection) for name in ("verify", "repair"))
    return (
        f"{len(view.damaged):,} documents that were looked at are damaged and left out: {named}. {verify} lists all "
        f"damage; restore a copy, or save what is intact: {repair} --to NEW"
    )


def summary(view: View) -> Mapping[str, Any]:
    """A summary of the page, for --json."""
    return {
        "collection": view.info.collection,
        "documents": view.info.count,
        "matching": view.matching,
        "shown": len(view.documents),
        "fields": [each.name for each in view.fields],
        "left_out": view.left_out,
        "damaged": view.damaged,
    }
