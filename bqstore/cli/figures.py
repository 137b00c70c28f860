"""The figures of the pages, made by plotly; one function each.

The only user data in them are names of metadata fields, which are escaped. They can be read without color: an encoding
has the same marker and dashes in all figures. The page's style sheet sets the color of text for light or dark screens.
"""

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from bqstore import Choice, Histogram, Quantization, RecallPoint, RecallReport

from . import formatting
from .template import visible

# contrast of at least 3.7:1 with white and with the page's dark background
_COLORS = ("#2f7fd0", "#d55e00", "#1a936f", "#a45bc6", "#a87800", "#0e8fa8", "#d0437d", "#7a8b2a")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "star", "pentagon", "x")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_GRAY = "#808080"
_FAINT = "rgba(128,128,128,0.25)"


@dataclass(frozen=True)
class Style:
    """The color, marker and line of an encoding."""

    color: str
    symbol: str
    dash: str


def styles(report: RecallReport) -> dict[str, Style]:
    """The style of each encoding of the report, the same in every figure."""
    return {
        name: Style(_COLORS[i % len(_COLORS)], _SYMBOLS[i % len(_SYMBOLS)], _DASHES[i % len(_DASHES)])
        for i, name in enumerate(formatting.by_encoding(report.points))
    }


def all_figures(report: RecallReport) -> dict[str, Any]:
    """The figures, by the ids of their elements on the page."""
    return {
        "time": recall_against_time(report),
        "oversampling": recall_against_oversampling(report),
        "scores": scores(report),
        "memory": memory(report),
    }


def recall_against_time(report: RecallReport) -> Any:
    """One marker per setting: filled for stored codes, open for codes made for the report.

    If there are both walks and scans, whose times are not comparable, walks are marked by a dot.
    """
    both = formatting.walks_and_scans(report)
    dots = "<br>(markers with a dot: walks)" if both else ""
    figure = _figure(f"milliseconds per query{dots}", f"recall@{report.k}")
    looks = styles(report)
    for name, points in formatting.by_encoding(report.points).items():
        look = looks[name]
        symbols = [look.symbol + _kind(p, both) for p in points]
        edges = [
            "#ffffff" if symbol.endswith("-dot") else look.color for symbol in symbols
        ]  # also the color of the dot
        figure.add_scatter(
            x=[p.milliseconds for p in points],
            y=[p.recall for p in points],
            error_y=_error_bars(points),
            name=name,
            mode="markers",
            marker={"color": look.color, "symbol": symbols, "size": 10, "line": {"width": 2, "color": edges}},
            text=[_hover(report, name, p) for p in points],
            hovertemplate="%{text}<extra></extra>",
        )
    current = report.current
    ring = {"symbol": "circle-open", "size": 24, "color": _GRAY, "line": {"width": 3}}
    figure.add_scatter(
        x=[current.milliseconds], y=[current.recall], name="in use", mode="markers", marker=ring, hoverinfo="skip"
    )
    figure.update_xaxes(type="log", dtick="D2", tickformat="~g")  # D2: ticks at 1, 2 and 5 times powers of ten
    figure.update_yaxes(range=_recall_range(report.points))
    return figure


def recall_against_oversampling(report: RecallReport) -> Any:
    """One line for each encoding, at the hnsw_ef with the best recall."""
    figure = _figure("oversampling", f"recall@{report.k}")
    looks = styles(report)
    shown: list[RecallPoint] = []
    for name, points in formatting.by_encoding(report.points).items():
        best: dict[float, RecallPoint] = {}
        for point in points:
            rival = best.get(point.oversampling)
            if point.rescore and point.way != "exact" and (rival is None or point.recall > rival.recall):
                best[point.oversampling] = point
        line = [best[x] for x in sorted(best)]
        shown += line
        if line:
            figure.add_scatter(
                x=[p.oversampling for p in line],
                y=[p.recall for p in line],
                error_y=_error_bars(line),
                name=name,
                mode="lines+markers",
                line={"color": looks[name].color, "dash": looks[name].dash, "width": 2},
                marker={"symbol": looks[name].symbol, "size": 9},
                text=[_hover(report, name, p) for p in line],
                hovertemplate="%{text}<extra></extra>",
            )
    figure.update_xaxes(type="log", tickvals=sorted({p.oversampling for p in shown}), tickformat="~g")
    figure.update_yaxes(range=_recall_range(shown or [report.current]))
    return figure


def scores(report: RecallReport) -> Any:
    """Histograms of the scores of neighbors and of other documents, each as shares of its own total."""
    return histogram(report.scores, f"the {formatting.nearest_sought(report)} nearest", report.distance)


def histogram(found: Histogram, nearest: str, distance: str) -> Any:
    """The histograms of scores; ``nearest`` is the name of the neighbors' histogram."""
    figure = _figure(f"score ({_measure(distance)})", "share of the documents")
    edges = found.edges
    for name, counts, look in (
        ("others, picked at random", found.others, {"color": _COLORS[1], "dash": "dash"}),
        (nearest, found.neighbors, {"color": _COLORS[0], "dash": "solid"}),
    ):
        shares = [n / (sum(counts) or 1) for n in counts]
        ranges = [
            f"{low:.3g} to {high:.3g}: {share:.1%}" for (low, high), share in zip(pairwise(edges), shares, strict=True)
        ]
        figure.add_scatter(
            x=edges,
            y=[*shares, 0.0],  # "hv" draws each step up to the next edge; the 0 ends the last one
            name=name,
            mode="lines",
            line={**look, "width": 2, "shape": "hv"},
            fill="tozeroy",
            text=[*ranges, ""],
            hovertemplate=f"<b>{name}</b><br>scores %{{text}}<extra></extra>",
        )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def memory(report: RecallReport) -> Any:
    """One bar for each encoding, below the bar of the float32 vectors."""
    return bars(formatting.memory_by_encoding(report), "in memory", gray=1)


def bars(sizes: dict[str, int], where: str, gray: int = 0) -> Any:
    """One bar for each size in bytes; the first ``gray`` bars are gray."""
    most = max(1, *sizes.values())
    unit, factor = formatting.unit(most)
    figure = _figure(f"{unit} {where}", "")
    names = [escape(visible(name)) for name in sizes]  # plotly interprets tags in texts
    figure.add_bar(
        x=[n / factor for n in sizes.values()],
        y=names,
        orientation="h",
        marker={"color": [*[_GRAY] * gray, *[_COLORS[0]] * (len(sizes) - gray)]},
        text=[formatting.size(n) for n in sizes.values()],
        textposition="outside",
        hovertemplate="%{y}: %{text}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(range=[0, most / factor * 1.55], nticks=6)  # room for the text beside the longest bar
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    figure.update_layout(height=130 + 34 * len(sizes))
    return figure


def trials(choice: Choice, in_use: Quantization) -> Any:
    """One marker for each encoding that was measured when the collection chose its own."""
    figure = _figure("nanoseconds to compare one code", f"recall@{choice.k}")
    for i, trial in enumerate(choice.trials):
        name = formatting.encoding(trial.quantization)
        used = name == formatting.encoding(in_use)
        figure.add_scatter(
            x=[trial.nanoseconds],
            y=[trial.recall],
            name=f"{name} (in use)" if used else name,
            mode="markers",
            marker={
                "color": _COLORS[i % len(_COLORS)],
                "symbol": _SYMBOLS[i % len(_SYMBOLS)],
                "size": 16 if used else 10,
            },
            hovertemplate=f"<b>{name}</b><br>recall {trial.recall:.3f}, of the codes alone {trial.raw_recall:.3f}<br>"
            f"{trial.nanoseconds:.1f} ns a code of {trial.code_bytes:,} bytes<extra></extra>",
        )
    figure.update_xaxes(type="log", dtick="D2", tickformat="~g")
    figure.update_yaxes(range=[max(0.0, min(t.recall for t in choice.trials) - 0.05), 1.02])
    return figure


# ---- common parts


def _figure(x_title: str, y_title: str) -> Any:
    """An empty figure that fills its width, with the legend below."""
    axis = {"gridcolor": _FAINT, "zerolinecolor": _FAINT, "linecolor": _GRAY, "automargin": True, "fixedrange": True}
    figure = go.Figure()
    figure.update_layout(
        template=None,
        height=480,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": "#1b1f24"}, "align": "left"},
        dragmode=False,
    )
    figure.update_xaxes(title=x_title, **axis)
    figure.update_yaxes(title=y_title, **axis)
    return figure


def _error_bars(points: list[RecallPoint]) -> dict[str, Any]:
    """The 95% intervals around the recalls."""
    above, below = [max(0.0, p.high - p.recall) for p in points], [max(0.0, p.recall - p.low) for p in points]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3}


def _kind(point: RecallPoint, both: bool) -> str:
    """The suffix of a marker's symbol."""
    if not point.stored:
        return "-open"
    return "-dot" if both and point.way == "walk" else ""


def _hover(report: RecallReport, name: str, point: RecallPoint) -> str:
    """The text shown when hovering over a point: all its settings and measurements."""
    q = point.quantization
    lines = (
        f"<b>{name}</b> ({formatting.status(report, point)})",
        f"encoding={q.encoding}, estimator={q.estimator}, rotate={q.rotate}, truncate_dim={q.truncate_dim}",
        f"query_encoding={q.query_encoding}",
        f"oversampling={point.oversampling:g}, rescore={point.rescore}, hnsw_ef={point.hnsw_ef}",
        f"{formatting.SEARCHES[point.way]}, {formatting.size(point.memory_bytes)} in memory",
        f"recall {point.recall:.3f} (95%: {formatting.interval(point.low, point.high)})",
        f"{formatting.milliseconds(point.milliseconds)} ms, "
        f"95 of 100 at most {formatting.milliseconds(point.slowest)} ms",
    )
    return "<br>".join(lines)


def _recall_range(points: list[RecallPoint] | tuple[RecallPoint, ...]) -> list[float]:
    """The range of the recall axis: from a little below the lowest interval to a little above 1."""
    span = max(1.0 - min(p.low for p in points), 0.02)
    return [max(0.0, 1.0 - 1.06 * span), 1.0 + 0.05 * span]


def _measure(distance: str) -> str:
    names = {"cosine": "cosine", "dot": "dot product", "euclid": "minus the Euclidean distance"}
    return f"{names[distance]}; larger is nearer"
