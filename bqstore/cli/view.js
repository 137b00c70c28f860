"use strict";
// The program of the page of `bqstore view`. Documents are the rows of the table; places on the map, metadata fields and
// the nearest of each document are in "view". Text gets on the page by textContent only, or through `plain` for plotly,
// which reads tags in texts.

const view = JSON.parse(document.getElementById("view").textContent);
const $ = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll("#table tbody tr")];
const ids = rows.map((row) => row.cells[0].textContent);
const haystacks = rows.map((row) => row.textContent.toLowerCase());
const PAGE = 50;
let matches = rows.map((_, i) => i);
let first = 0;
let chosen = null;

const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\n/g, " ");
const short = (text, most) => (text.length > most ? [...text].slice(0, most).join("") + "…" : text);
const made = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text }, more);

// ---- documents

for (const [i, row] of rows.entries()) {
  const [name, ...others] = row.cells;
  name.replaceChildren(made("button", ids[i] || "(empty)", { className: "link", type: "button", onclick: () => open(i) }));
  for (const cell of others) {
    const inner = made("div", cell.textContent, { className: "clamp" });
    cell.replaceChildren(inner);
  }
}

function has(code, wanted) {
  if (wanted === -1) return code === null;
  return Array.isArray(code) ? code.includes(wanted) : code === wanted;
}

function search() {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = [];
  for (const select of document.querySelectorAll("select.value")) {
    const codes = view.fields[select.dataset.field].codes;
    if (select.value !== "") tests.push((i) => has(codes[i], Number(select.value)));
  }
  for (const [kind, sign] of [["least", 1], ["most", -1]]) {
    for (const input of document.querySelectorAll(`input.${kind}`)) {
      const codes = view.fields[input.dataset.field].codes;
      if (input.value !== "" && !input.validity.badInput) {
        tests.push((i) => codes[i] !== null && sign * (codes[i] - Number(input.value)) >= 0);
      }
    }
  }
  matches = [];
  for (let i = 0; i < rows.length; i++) {
    if (words.every((word) => haystacks[i].includes(word)) && tests.every((test) => test(i))) matches.push(i);
  }
  first = 0;
  list();
  redraw();
}

function list() {
  const seen = new Set(matches.slice(first, first + PAGE));
  rows.forEach((row, i) => { row.hidden = !seen.has(i); });
  const n = matches.length;
  $("found").textContent = n === rows.length ? `All ${n.toLocaleString("en")} documents of this page`
    : n ? `${n.toLocaleString("en")} of ${rows.length.toLocaleString("en")} documents of this page`
      : "No document of this page has all of that.";
  $("pages").hidden = n <= PAGE;
  $("where").textContent = `${first + 1}-${Math.min(n, first + PAGE)} of ${n.toLocaleString("en")}`;
  $("before").disabled = first === 0;
  $("after").disabled = first + PAGE >= n;
}

function turn(by) {
  first = Math.max(0, Math.min(first + by, matches.length - 1));
  list();
  document.querySelector("#documents").scrollIntoView();
}

// ---- one document

function open(i) {
  const dialog = $("document");
  chosen = i;
  redraw();
  const [, text, metadata] = rows[i].cells;
  const parts = [made("h2", ids[i] || "(empty)", { id: "document-title", dir: "auto", tabIndex: -1 })];
  parts.push(made("pre", text.textContent || "No text is stored.", { dir: "auto" }));
  if (metadata.textContent) parts.push(made("h3", "Metadata"), made("pre", metadata.textContent, { dir: "auto" }));
  if (view.nearest.length) {
    parts.push(made("h3", "Nearest documents and their scores"));
    const found = made("ol", "");
    for (const [other, score] of view.nearest[i]) {
      const item = made("li", `${score} `);
      if (typeof other === "number") {
        item.append(made("button", ids[other] || "(empty)", { className: "link", type: "button", onclick: () => open(other) }));
        item.append(" ", made("span", short(rows[other].cells[1].textContent, 90), { className: "path", dir: "auto" }));
      } else {
        item.append(made("bdi", other), " (not on this page)");
      }
      found.append(item);
    }
    parts.push(view.nearest[i].length ? found : made("p", "There are none."));
  }
  const menu = made("menu", "");
  if (view.places.length) menu.append(made("button", "Show on the map", { type: "button", onclick: toMap }));
  menu.append(made("button", "Close", { type: "button", onclick: () => dialog.close() }));
  parts.push(menu);
  dialog.replaceChildren(...parts);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  parts[0].focus();
}

function toMap() {
  $("document").close();
  $("map").scrollIntoView();
  $("map-plot").focus({ preventScroll: true });
}

// ---- the map

const COLORS = ["#2f7fd0", "#d55e00", "#1a936f", "#a45bc6", "#a87800", "#0e8fa8", "#d0437d", "#7a8b2a"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "star", "pentagon"];
const GRAY = "#808080";
const FAINT = "rgba(128,128,128,0.25)";
const hover = view.places.map((_, i) => {
  const text = short(rows[i].cells[1].textContent, 120).replace(/(.{1,48})(\s+|$)/g, "$1\n").trim();
  return [`<b>${plain(short(ids[i], 60))}</b>`, ...text.split("\n").map(plain)].join("<br>");
});

function trace(members, name, marker) {
  return {
    type: "scatter", mode: "markers", name: plain(short(name, 40)), showlegend: name !== "", customdata: members,
    x: members.map((i) => view.places[i][0]), y: members.map((i) => view.places[i][1]),
    text: members.map((i) => hover[i]), hovertemplate: "%{text}<extra></extra>", marker: { size: 8, ...marker },
  };
}

function traces(field) {
  const kept = new Set(matches);
  const faded = view.places.map((_, i) => i).filter((i) => !kept.has(i));
  const out = faded.length ? [trace(faded, "left out", { color: GRAY, opacity: 0.15, size: 6 })] : [];
  if (field === null) {
    out.push(trace(matches, "", { color: COLORS[0], opacity: 0.75 }));
  } else if (field.values === null) {
    const numbers = matches.filter((i) => field.codes[i] !== null);
    const bar = { title: { text: plain(short(field.name, 30)), side: "top" }, thickness: 12, orientation: "h", y: -0.02, yanchor: "top" };
    const marker = { color: numbers.map((i) => field.codes[i]), colorscale: "Viridis", showscale: true, colorbar: bar };
    out.push({ ...trace(numbers, field.name, marker), showlegend: false });
  } else {
    const groups = new Map();
    for (const i of matches) {
      const code = Array.isArray(field.codes[i]) ? field.codes[i][0] : field.codes[i];
      if (code !== null) groups.set(code, [...(groups.get(code) || []), i]);
    }
    // a value keeps its color whatever is left out
    const counts = new Map();
    for (const each of field.codes) {
      const code = Array.isArray(each) ? each[0] : each;
      if (code !== null) counts.set(code, (counts.get(code) || 0) + 1);
    }
    const order = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
    order.slice(0, COLORS.length).forEach((code, at) => {
      if (groups.has(code)) out.push(trace(groups.get(code), field.values[code], { color: COLORS[at], symbol: SYMBOLS[at], opacity: 0.8 }));
    });
    const rest = order.slice(COLORS.length).flatMap((code) => groups.get(code) || []);
    if (rest.length) out.push(trace(rest, "other values", { color: GRAY, symbol: "x", opacity: 0.6 }));
  }
  if (field !== null) {
    const without = matches.filter((i) => field.codes[i] === null);
    if (without.length) out.push(trace(without, `without ${field.name}`, { color: GRAY, symbol: "circle-open" }));
  }
  if (chosen !== null) {
    const ring = { size: 20, color: "rgba(0,0,0,0)", line: { width: 3, color: "#d0437d" } };
    out.push(trace([chosen], `chosen: ${ids[chosen]}`, ring));
  }
  return out;
}

const axis = { showgrid: true, gridcolor: FAINT, zerolinecolor: FAINT, showticklabels: false, ticks: "" };
const layout = {
  uirevision: "map", margin: { l: 8, r: 8, t: 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: "system-ui, sans-serif", size: 13 }, dragmode: "zoom", xaxis: { ...axis }, yaxis: { ...axis },
  hoverlabel: { bgcolor: "#ffffff", font: { color: "#1b1f24" }, align: "left" },
};

function redraw() {
  if (!view.places.length) return;
  const field = $("color").value === "" ? null : view.fields[$("color").value];
  const above = field !== null && field.values === null; // the scale of the numbers is below
  const legend = { orientation: "h", x: 0, y: above ? 1.01 : -0.02, yanchor: above ? "bottom" : "top" };
  Plotly.react("map-plot", traces(field), { ...layout, legend, showlegend: field !== null || chosen !== null }, { responsive: true, displayModeBar: false });
}

function zoom(factor, right = 0, up = 0) {
  const { xaxis, yaxis } = $("map-plot")._fullLayout;
  const range = (axis, by) => {
    const [from, to] = axis.range;
    const middle = (from + to) / 2 + by * (to - from), half = ((to - from) / 2) * factor;
    return [middle - half, middle + half];
  };
  Plotly.relayout("map-plot", { "xaxis.range": range(xaxis, right), "yaxis.range": range(yaxis, up) });
}

const whole = () => Plotly.relayout("map-plot", { "xaxis.autorange": true, "yaxis.autorange": true });
const KEYS = {
  "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), "0": whole,
  ArrowLeft: () => zoom(1, -0.15), ArrowRight: () => zoom(1, 0.15), ArrowUp: () => zoom(1, 0, 0.15), ArrowDown: () => zoom(1, 0, -0.15),
};

// ---- begin

$("controls").hidden = false;
$("controls").addEventListener("input", search);
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("controls").addEventListener("reset", () => setTimeout(search));
$("document").onclick = (event) => { if (event.target === $("document")) $("document").close(); }; // beside it
$("before").onclick = () => turn(-PAGE);
$("after").onclick = () => turn(PAGE);
if (view.places.length) {
  $("map-controls").hidden = false;
  $("color").onchange = redraw;
  $("closer").onclick = KEYS["+"];
  $("farther").onclick = KEYS["-"];
  $("whole").onclick = whole;
  $("map-plot").addEventListener("keydown", (event) => {
    if (event.key in KEYS && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });
}
search();
if (view.places.length) $("map-plot").on("plotly_click", (event) => open(event.points[0].customdata));
