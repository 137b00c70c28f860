"""Common parts of the pages: escaping of text, frame, style sheet and script."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --card: #f6f8fa; --strong: #1f6fc0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ground: #15181d; --ink: #e6e9ec; --soft: #a3acb5; --line: #3a424b; --card: #1d2229; --strong: #5aa2ec; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.75rem, 3vw, 2rem) 3rem; max-width: 70rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.25rem; }
p { margin: 0.25rem 0 0.75rem; max-width: 46rem; }
.path, figcaption, dd.note { color: var(--soft); overflow-wrap: anywhere; }
.verdict { font-size: 1.25rem; margin: 1rem 0; }
.todo { border-inline-start: 0.3rem solid var(--strong); padding: 0.25rem 0 0.25rem 0.75rem; margin: 1rem 0;
  overflow-wrap: anywhere; }
code { font: 0.95em ui-monospace, monospace; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 0.75rem; margin: 0; }
.cards div { border: 1px solid var(--line); border-radius: 0.5rem; background: var(--card); padding: 0.75rem 1rem; }
.cards dt { color: var(--soft); }
.cards dd { margin: 0; }
.cards dd.figure { font-size: 1.75rem; line-height: 1.3; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
summary { cursor: pointer; }
details { margin: 0.75rem 0; }
summary h2 { display: inline; }
:focus-visible { outline: 0.15rem solid var(--strong); outline-offset: 0.1rem; }
.plot { width: 100%; min-height: 12rem; }
.plot .main-svg :is(.xtick, .ytick, .xtitle, .ytitle, .legendtext, .bartext),
.plot .main-svg :is(.xtick, .ytick, .colorbar) text { fill: var(--ink) !important; }
@media (scripting: none) { .plot { display: none; } }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; vertical-align: bottom;
  border-bottom: 1px solid var(--line); }
tbody th { text-align: left; font-weight: inherit; }
tbody th[scope="rowgroup"] { font-weight: 700; padding-top: 1rem; }
thead th { white-space: normal; }
tr.current { font-weight: 700; }
dl.how dt { font-weight: 600; margin-top: 0.75rem; }
dl.how dd { margin: 0; max-width: 46rem; }
@media print {
  body { max-width: none; padding: 0; }
  figure, .cards div, tr { break-inside: avoid; }
  h2, dt { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 0.6rem; }
  th, td { padding: 0.1rem 0.25rem; white-space: normal; }
}
"""

# printing changes the width of the page, which plotly does not notice
PROGRAM = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const options = { responsive: true, displayModeBar: false };
for (const [name, figure] of Object.entries(figures)) Plotly.newPlot(name, figure.data, figure.layout, options);
const fit = (width) => Object.keys(figures).forEach((name) => Plotly.relayout(name, { width, autosize: !width }));
for (const folded of document.querySelectorAll("details")) {  // what is folded has no width
  folded.ontoggle = () => folded.querySelectorAll(".plot").forEach((plot) => Plotly.Plots.resize(plot));
}
addEventListener("beforeprint", () => fit(680));
addEventListener("afterprint", () => fit(null));
"""


# invisible characters that affect the text around them: control characters, direction marks, the line separators that
# JavaScript treats as line ends, lone surrogates. Joiners are kept: letters and emoji need them.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with invisible characters as escapes, such as ``\\u202e``; tabs and line ends are kept."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text.replace("\r\n", "\n"))


def shown(text: str) -> str:
    """Any text as HTML, without effect as markup."""
    return escape(visible(text))


def as_json(found: Any) -> str:
    """JSON in ASCII for a script element; ``<`` is escaped, so that no text can close the element."""
    return json.dumps(found, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def card(name: str, figure: str, *notes: str) -> str:
    """One large figure with its name and notes."""
    below = "".join(f'<dd class="note">{shown(note)}</dd>' for note in notes)
    return f'<div><dt>{shown(name)}</dt><dd class="figure">{shown(figure)}</dd>{below}</div>'


def document(
    title: str,
    body: str,
    data: str,
    scripts: tuple[str, ...],
    *,
    style: str = "",
    more: Mapping[str, str] | None = None,
    forms: str = "'none'",
) -> str:
    """Return a whole page.

    Its Content-Security-Policy forbids network requests and all scripts except these. So even unescaped text could not
    run as a script, and opening the page contacts no server.

    Parameters
    ----------
    title : str             any text
    body : str              HTML
    data : str              the figures, by `as_json`
    scripts : tuple of str  run in this order
    style : str             CSS rules after the common ones
    more : dict of str      further JSON, by the id of its element
    forms : str             targets that the policy allows for forms
    """
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}; "
    policy += f"base-uri 'none'; form-action {forms}"
    found = {"figures": data, **(more or {})}
    texts = "\n".join(f'<script type="application/json" id="{name}">{text}</script>' for name, text in found.items())
    programs = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{shown(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
{body}
{texts}
{programs}
</body>
</html>
"""


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
