"""The report in a real browser: it draws, answers the mouse and the keyboard, and asks for nothing.

Needs playwright and a Chromium, from GRADEVO_CHROMIUM or the path. Without them these tests are
skipped, unless GRADEVO_BROWSER is "required".
"""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradevo import record, report
from gradevo.frontfile import FrontFile
from reported import compared, front

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1200, "height": 900}},
    "dark": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


def missing(reason: str) -> Any:
    if os.environ.get("GRADEVO_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    found = [os.environ.get("GRADEVO_CHROMIUM"), *map(shutil.which, NAMES)]
    program = next((path for path in found if path), None)
    if program is None:
        missing(f"no browser: set GRADEVO_CHROMIUM, or install one of {', '.join(NAMES)}")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, a front, and a run on data with a hostile name."""
    folder = tmp_path_factory.mktemp("runs")
    compared(folder / "compared", "gadam,adam", seeds=1)
    front(folder / "front")
    hostile = shutil.copytree(folder / "compared" / "gadam-0", folder / "hostile")
    record.note(hostile, data={**record.read(hostile)["data"], "name": HOSTILE})
    return folder


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, str]:
    """Addresses of a page on one front and of one on all runs."""
    one = report.write([folder / "front"], folder / "one.html")
    everything = [folder / "compared", folder / "front", folder / "hostile"]
    return {"one": one.as_uri(), "all": report.write(everything, folder / "all.html").as_uri()}


class Visit:
    """A page that is open, and everything that it complained of or asked for."""

    def __init__(self, browser: Any, address: str, **view: Any) -> None:
        self.context = browser.new_context(**view)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector(".plot .main-svg")

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *ended: object) -> None:
        self.context.close()

    def open_all(self) -> None:
        """Unfold everything, and wait until it is drawn."""
        self.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.plot')].every((p) => p.querySelector('svg'))"
        )

    def point(self, plot: str, i: int) -> tuple[float, float]:
        """Where on the screen a member of a front is drawn."""
        mark = self.page.locator(f"#{plot} .scatterlayer .trace >> nth=0").locator(".point")
        mark.nth(i).scroll_into_view_if_needed()
        box = mark.nth(i).bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def chosen(self) -> dict[str, str]:
        """What the page says of the selected member."""
        panel = self.page.locator(".chosen").first
        return {part: panel.locator(part).inner_text() for part in (".name", ".words", "code")}


@pytest.fixture(scope="module")
def visit(browser: Any, pages: dict[str, str]) -> Iterator[Visit]:
    """The page on a front, open for several tests, since every loading takes a second."""
    with Visit(browser, pages["one"], **VIEWS["light"]) as visit:
        yield visit


@pytest.mark.parametrize("view", VIEWS)
def test_a_page_draws_without_a_word_and_asks_for_nothing(
    browser: Any, pages: dict[str, str], view: str
) -> None:
    with Visit(browser, pages["all"], **VIEWS[view]) as visit:
        visit.open_all()
        visit.page.locator("#theme").click()
        assert visit.complaints == []
        assert visit.requests == [pages["all"]]
        assert visit.page.title().startswith("gradevo report: gadam, adam, gemonn on iris")
        assert visit.page.locator("main img, main script:not([type])").count() == 0
        width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert visit.page.evaluate(width), "the page is wider than the screen"
        plots = "[...document.querySelectorAll('.plot')]"
        wide = f"{plots}.filter((p) => p.scrollWidth > p.clientWidth).map((p) => p.id)"
        assert visit.page.evaluate(wide) == []


def test_hovering_over_a_member_shows_sparsity_loss_and_accuracy(
    visit: Visit, folder: Path
) -> None:
    row = FrontFile.read(folder / "front").points.rows()[1]
    for plot in ("run-1-front-1", "run-1-front-2"):
        visit.page.mouse.move(*visit.point(plot, 1))
        label = visit.page.locator(f"#{plot} .hoverlayer .hovertext")
        label.wait_for()
        said = label.text_content().replace("\u202f", " ")
        assert f"sparsity {100 * row['sparsity']:.2f} %" in said
        assert f"loss {row['loss']:.4g}" in said
        assert f"accuracy {100 * row['accuracy']:.2f} %" in said


def test_a_click_selects_a_member_and_shows_its_command(visit: Visit, folder: Path) -> None:
    points = FrontFile.read(folder / "front").points
    knee = points.knee
    middle = visit.point("run-1-front-1", knee)
    visit.page.mouse.click(*middle)
    assert visit.chosen()[".name"] == f"member {knee} (knee)"
    assert visit.chosen()["code"] == f"gradevo export {folder / 'front'} --to onnx --pick knee"
    others = [i for i in range(len(points)) if i not in (knee, points.best(), 0)]
    places = {i: visit.point("run-1-front-1", i) for i in others}
    other = max(others, key=lambda i: math.dist(places[i], middle))  # whom no other one hides
    visit.page.mouse.click(*places[other])
    visit.page.wait_for_function(
        "name => document.querySelector('.chosen .name').textContent === name",
        arg=f"member {other}",
    )
    chosen = visit.chosen()
    assert chosen[".name"] == f"member {other}"
    assert f"{int(points.nonzeros[other]):,} non-zeros" in chosen[".words"]
    start, _, limit = chosen["code"].partition(" --pick best --min-sparsity ")
    assert start == f"gradevo export {folder / 'front'} --to onnx"
    assert points.pick(min_sparsity=float(limit)) == other
    assert visit.page.locator("input:checked").get_attribute("value") == str(other)
    for i in (1, 2):
        ring = f"[...document.querySelector('#run-1-front-{i}').data.at(-1).x]"
        assert visit.page.evaluate(ring) == pytest.approx([float(points.densities[other])])
    visit.page.locator(".copy").first.click()
    visit.page.wait_for_function("() => document.querySelector('.copy').textContent === 'Copied'")
    assert visit.complaints == []


def test_the_keyboard_selects_as_the_mouse_does(visit: Visit) -> None:
    visit.page.locator("input[value='0']").focus()
    visit.page.keyboard.press("Space")
    assert visit.chosen()[".name"].startswith("member 0")
    visit.page.keyboard.press("ArrowDown")
    assert visit.chosen()[".name"].startswith("member 1")


def test_a_tap_selects_on_a_phone(browser: Any, pages: dict[str, str]) -> None:
    with Visit(browser, pages["one"], **VIEWS["phone"]) as visit:
        visit.page.touchscreen.tap(*visit.point("run-1-front-2", 2))
        visit.page.wait_for_function(
            "() => document.querySelector('.chosen .name').textContent.startsWith('member 2')"
        )


def test_the_theme_is_the_systems_until_the_button_is_pressed(
    browser: Any, pages: dict[str, str]
) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    line = "document.querySelector('#run-1-losses').data.at(-1).line.color"
    with Visit(browser, pages["one"], **VIEWS["light"]) as visit:
        seen = [visit.page.evaluate(f"[{ground}, {line}]")]
        visit.page.emulate_media(color_scheme="dark")
        visit.page.get_by_text("Light theme").wait_for()
        seen.append(visit.page.evaluate(f"[{ground}, {line}]"))
        visit.page.locator("#theme").click()
        seen.append(visit.page.evaluate(f"[{ground}, {line}]"))
        visit.page.emulate_media(color_scheme="light")
        visit.page.locator("#theme").click()
        seen.append(visit.page.evaluate(f"[{ground}, {line}]"))
    light, dark, pressed, again = seen
    assert light == pressed and dark == again
    assert light[0] != dark[0] and light[1] != dark[1]


def test_a_run_that_is_unfolded_is_drawn(browser: Any, pages: dict[str, str]) -> None:
    with Visit(browser, pages["all"], **VIEWS["light"]) as visit:
        folded = visit.page.locator("details.run").last
        assert folded.locator(".main-svg").count() == 0
        folded.locator("summary").first.click()
        folded.locator(".plot .main-svg").first.wait_for()


def test_a_page_prints_in_light_colours_and_goes_back(visit: Visit) -> None:
    visit.page.emulate_media(color_scheme="dark")
    visit.page.evaluate("""() => {
        window.printed = [];
        matchMedia("print").addEventListener("change", (event) => {
            const { font, width } = document.querySelector("#run-1-losses").layout;
            if (event.matches) window.printed.push(font.color, width);
        });
    }""")
    ink = "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    before = visit.page.evaluate(ink)
    assert visit.page.pdf(format="A4").startswith(b"%PDF")
    assert visit.page.evaluate("window.printed") == ["#1b2128", 680]
    assert visit.page.evaluate(ink) == before != "#1b2128"
    visit.page.emulate_media(media="print")
    assert not visit.page.locator("#theme").is_visible()
    visit.page.emulate_media(media="screen", color_scheme="light")
    assert visit.complaints == []


def test_without_scripts_the_tables_have_the_numbers(browser: Any, pages: dict[str, str]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["one"])
    assert page.locator("fieldset tbody tr").count() > 5
    assert page.locator(".chosen code").inner_text().startswith("gradevo export ")
    context.close()
