"""The style sheet, the script and the HTML frame of the report page."""

import base64
import hashlib
from html import escape

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --card: #f6f8fa; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ground: #15181d; --ink: #e6e9ec; --soft: #a3acb5; --line: #3a424b; --card: #1d2229; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.75rem, 3vw, 2rem) 3rem; max-width: 70rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.25rem; }
p { margin: 0.25rem 0 0.75rem; max-width: 46rem; }
.path, figcaption, dd.note { color: var(--soft); overflow-wrap: anywhere; }
.verdict { font-size: 1.25rem; margin: 1rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 0.75rem; margin: 0; }
.cards div { border: 1px solid var(--line); border-radius: 0.5rem; background: var(--card); padding: 0.75rem 1rem; }
.cards dt { color: var(--soft); }
.cards dd { margin: 0; }
.cards dd.figure { font-size: 1.75rem; line-height: 1.3; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
.plot { width: 100%; min-height: 12rem; }
.plot .main-svg :is(.xtick, .ytick, .xtitle, .ytitle, .legendtext, .bartext),
.plot .main-svg :is(.xtick, .ytick) text { fill: var(--ink) !important; }
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

# on paper the page has another width, of which plotly is not told
PROGRAM = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const options = { responsive: true, displayModeBar: false };
for (const [name, figure] of Object.entries(figures)) Plotly.newPlot(name, figure.data, figure.layout, options);
const fit = (width) => Object.keys(figures).forEach((name) => Plotly.relayout(name, { width, autosize: !width }));
addEventListener("beforeprint", () => fit(680));
addEventListener("afterprint", () => fit(null));
"""


def document(title: str, body: str, data: str, scripts: tuple[str, ...]) -> str:
    """Return a whole page. ``body`` is HTML, ``data`` is JSON without a ``<``, ``title`` is any text.

    Its Content-Security-Policy forbids every network request and every script but these. So text that was not escaped
    could not run as a script, and opening the page contacts nobody.
    """
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"
    programs = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<script type="application/json" id="figures">{data}</script>
{programs}
</body>
</html>
"""


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
