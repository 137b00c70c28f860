"""The pages in a headless Chromium, as people use them: searched, filtered, by keyboard, on a phone, in the dark."""

import json
import shutil
import threading
from contextlib import contextmanager

import pytest

import bqstore
from bqstore.cli import view_data, view_page
from bqstore.cli.view_server import Server
from tests.cli import given
from tests.cli.test_report_page import made
from tests.cli.test_view import EVIL, NAME, notes  # noqa: F401 - a fixture
from tests.conftest import clustered

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed, which drives the browser (pip install playwright)"
    )
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open a page, given as text or as an address. What it complains of, or asks of others, is an error in the end."""
    complaints, contexts = [], []

    def open_page(text, **options):
        where = text
        if not text.startswith("http:"):
            file = tmp_path / f"page-{len(contexts)}.html"
            file.write_text(text, "utf-8")
            where = file.as_uri()
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: request.url.startswith(where) or complaints.append(request.url))
        page.goto(where)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def text(notes):  # noqa: F811
    with bqstore.open(notes, read_only=True) as col:
        return view_page.page(view_data.looked_at(col, [], 110), str(notes))


def drawn(page):
    return page.locator("#map-plot .main-svg .points path").count()


def listed(page):
    return page.locator("#table tbody tr:visible").count()


def width_of_map(page):
    low, high = page.evaluate("document.getElementById('map-plot')._fullLayout.xaxis.range")
    return high - low


def test_it_is_searched_filtered_and_colored(visit, text):
    page = visit(text)
    assert page.inner_text("#found") == "All 110 documents of this page"
    assert drawn(page) == 110 and listed(page) == 50
    page.click("#after")
    page.click("#after")
    assert listed(page) == 10 and page.locator("#after").is_disabled()
    page.fill("#words", "TEXT lang 7")
    found = page.inner_text("#found")
    assert found.endswith("of 110 documents of this page") and 5 < listed(page) < 50
    page.get_by_label("lang").first.select_option("de")
    assert all('"lang": "de"' in each for each in page.locator("#table tbody tr:visible").all_inner_texts())
    page.fill("#words", "")
    page.locator("fieldset", has_text="year").get_by_label("to").fill("1910")
    assert 1 <= listed(page) <= 6 and drawn(page) == 110, "what is left out is faded"
    page.fill("#words", "nothing has this")
    assert page.inner_text("#found") == "No document of this page has all of that."
    page.click("text=Show all")
    page.wait_for_function("document.getElementById('found').textContent.startsWith('All')")
    for field in ("lang", "year", "tags", ""):
        page.select_option("#color", label=field or "nothing")
        assert drawn(page) == 110
    page.select_option("#color", label="lang")
    assert {"en", "de"} <= set(page.locator("#map-plot .legendtext").all_text_contents())
    before = width_of_map(page)
    page.click("#closer")
    assert width_of_map(page) < 0.8 * before
    page.fill("#words", "text 1")
    assert width_of_map(page) < 0.8 * before, "a search leaves the map where it is"
    page.click("#whole")
    assert width_of_map(page) == pytest.approx(before, rel=0.2)


def test_by_keyboard_alone(visit, text):
    page = visit(text)
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if seen[-1].startswith("note-"):
            break
    assert seen[:2] == ["Documents", "Map"] and seen.index("words") < seen.index("Show all") < len(seen) - 1
    assert all(page.evaluate("[...document.querySelectorAll('input, select')].map((each) => each.labels.length > 0)"))
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    assert dialog.is_visible() and seen[-1] in dialog.inner_text() and "Nearest documents" in dialog.inner_text()
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the nearest one, or the map where none is on the page
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.focus("#map-plot")
    before = width_of_map(page)
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    assert width_of_map(page) < 0.8 * before
    page.keyboard.press("0")
    assert width_of_map(page) > 0.8 * before


def test_a_marker_opens_its_document(visit, text):
    page = visit(text)
    page.locator("#map-plot").scroll_into_view_if_needed()
    place = page.locator("#map-plot .points path").first.bounding_box()
    page.mouse.move(place["x"] + 4, place["y"] + 4)
    page.wait_for_selector("#map-plot .hovertext")
    page.mouse.click(place["x"] + 4, place["y"] + 4)
    page.wait_for_selector("dialog[open]")
    assert page.locator("dialog h2").inner_text().startswith("note-")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_but_tables_scrolls_sideways(visit, text, scheme):
    for each in (text, made()):
        page = visit(each, color_scheme=scheme, **PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        wider = "[...document.querySelectorAll('.scroll')].filter((each) => each.scrollWidth > each.clientWidth).length"
        assert page.evaluate(wider) >= 1
        dark = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(dark) == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 29)")


def test_the_first_screen_of_a_report_on_a_phone_says_what_to_do(visit):
    page = visit(made(given.report()), **PHONE)
    place = page.locator(".todo").bounding_box()
    assert place["y"] + place["height"] < PHONE["viewport"]["height"]
    assert page.locator("details .plot").first.is_hidden()
    page.locator("summary").first.click()
    page.wait_for_function("document.querySelector('details .plot .main-svg').getBoundingClientRect().width > 300")


def test_without_javascript_it_is_a_table(visit, text):
    page = visit(text, java_script_enabled=False)
    assert listed(page) == 110 and not page.locator("#controls").is_visible()
    assert page.locator("noscript").first.bounding_box()["height"] > 10


def test_hostile_documents_run_nothing(visit, tmp_path):
    names = {"</script>\u202e": "<img src=x onerror=alert(1)>", "<b>n": 1.5, EVIL: EVIL}
    with bqstore.open(tmp_path / "evil", NAME) as col:
        metadatas = [{**names, "<b>n": n} for n in range(30)]
        texts = [f"<a href='http://evil.example'>{EVIL}"] * 30
        col.add(clustered(30, 8), [f"{EVIL}{n}" for n in range(30)], texts, metadatas)
        page = visit(view_page.page(view_data.looked_at(col, [EVIL], 50), EVIL))
    for field in range(2):
        page.select_option("#color", str(field))
        assert drawn(page) == 30
    page.select_option("select.value", index=1)
    place = page.locator("#map-plot .points path").first
    place.scroll_into_view_if_needed()
    place.hover(force=True)
    page.wait_for_selector("#map-plot .hovertext")
    page.locator("#table tbody tr button").first.click()
    assert "<img src=x onerror=alert(1)>" in page.locator("dialog").inner_text()
    assert page.locator("img, body a[href^=http], #map-plot a").count() == 0
    assert "\\u202e" in page.inner_text("h1")


@contextmanager
def served(make):
    with Server(0, make) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_served_page_takes_other_documents_by_a_filter(visit, notes):  # noqa: F811
    with bqstore.open(notes, read_only=True) as col:

        def make(asked):
            wanted = json.loads(asked) if asked else None
            return view_page.page(view_data.looked_at(col, [], 50, wanted), "notes", served=asked)

        with served(make) as server:
            for enabled in (True, False):
                page = visit(server.address, java_script_enabled=enabled)
                page.fill("input[name=filter]", '{"year":{"$lt":1905}}')
                with page.expect_navigation():
                    page.click("text=Take them")
                assert "All 5 documents that match the filter" in page.inner_text("#documents")
