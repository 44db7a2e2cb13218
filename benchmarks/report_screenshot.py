"""The picture of the report in the README, from real runs on digits.

    python benchmarks/report_screenshot.py docs/results/figures/report.png

Needs gradevo[report], playwright, Pillow and a Chromium (GRADEVO_CHROMIUM, or on the path). Takes
two minutes: three seeds each of GADAM and two baselines at equal cost, and a front.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from gradevo import report
from gradevo.cli import main

METHODS = ["compare", "digits", "--methods", "gadam,adam,adam-best-of", "--seeds", "3",
           "--steps", "150", "--generations", "6", "--population", "8"]  # fmt: skip
FRONT = ["train", "digits", "--method", "gemonn", "--population", "40", "--generations", "60",
         "--steps", "40"]  # fmt: skip
WIDTH = 1200
PARTS = (  # of which page, from the top of one element to that of another
    ("compare", "body", "#runs"),
    ("compare", "#run-1 h3:has-text('Descent')", "#run-1 details.inner"),
    ("front", "#run-1 h3:has-text('Pareto front')", "fieldset"),
)


def trained() -> None:
    """Run folders and pages in the working folder, with short names for short commands."""
    main([*METHODS, "--engine", "batched", "--out", "runs/compare"])
    main([*FRONT, "--engine", "loop", "--out", "runs/front"])
    report.write(["runs/compare"], "compare.html")
    report.write(["runs/front"], "front.html")


def part(page: Any, first: str, last: str, path: Path) -> Image.Image:
    """What is between the tops of two elements."""
    top, bottom = (page.locator(one).first.bounding_box()["y"] for one in (first, last))
    area = {"x": 0, "y": max(0, top), "width": WIDTH, "height": bottom - max(0, top) - 12}
    page.screenshot(path=path, full_page=True, clip=area)
    return Image.open(path)


def parts(folder: Path) -> list[Image.Image]:
    """Of both pages, as a browser shows them."""
    program = os.environ.get("GRADEVO_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--headless"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        page, found = browser.new_page(viewport={"width": WIDTH, "height": 900}), []
        for number, (name, first, last) in enumerate(PARTS):
            page.goto((folder / f"{name}.html").as_uri())
            page.wait_for_selector(".plot .main-svg")
            found.append(part(page, first, last, folder / f"{number}.png"))
        browser.close()
    return found


def below_each_other(images: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (WIDTH, sum(image.height for image in images)))
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return whole


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        trained()
        picture = below_each_other(parts(Path(folder)))
        picture.quantize(96, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size // 1000} kB")
