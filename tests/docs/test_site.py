"""The built site in a real browser, on a desk and on a telephone: nothing is cut off, code can be copied.

    make docs && python -m pytest -m browser tests/docs/test_site.py

Screenshots go to `out/site`, to be looked at.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.conftest import NEEDS_BROWSER

ROOT = Path(__file__).parents[2]
SITE = ROOT / "out/docs"
PICTURES = ROOT / "out/site"
PAGES = ("index", "explanation/comparison", "explanation/elimination", "how-to/feasibility", "reference/inside")
LOOK = """
const width = document.documentElement.clientWidth;
const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
const inside = e => e && e.tagName != 'ARTICLE' && (scrolls(e) || inside(e.parentElement));
const all = [...document.querySelectorAll('article *')];
return {
  page: document.documentElement.scrollWidth - width,
  cut: all.filter(e => e.getBoundingClientRect().right > width + 1 && !inside(e)).map(e => e.outerHTML.slice(0, 80)),
  tables: [...document.querySelectorAll('article table')].filter(e => !inside(e)).length,
  code: document.querySelectorAll('article div:not(.output) > div.highlight > pre').length,
  buttons: document.querySelectorAll('article button.copybtn').length,
  onOutputs: document.querySelectorAll('article .output button.copybtn').length,
};
"""

pytestmark = [
    pytest.mark.browser,
    NEEDS_BROWSER,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the site is not built: make docs"),
]


def look(driver, page: str, width: int) -> dict:
    """Open a page at a width, keep its picture, and return what is seen."""
    size = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get((SITE / f"{page}.html").as_uri())
    PICTURES.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(PICTURES / f"{page.replace('/', '_')}_{width}.png"))
    return driver.execute_script(LOOK)


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_cut_off(browser, page, width) -> None:
    seen = look(browser, page, width)
    assert seen["page"] <= 0  # the page itself does not scroll sideways
    assert seen["cut"] == []
    assert seen["tables"] == 0  # that could not scroll


def test_tables_fit_a_desk(browser) -> None:
    look(browser, "explanation/elimination", 1200)
    overhang = browser.execute_script(
        "const w = document.querySelector('.table-wrapper'); return w.scrollWidth - w.clientWidth"
    )
    assert overhang <= 0


@pytest.mark.parametrize("page", ["how-to/feasibility", "how-to/installation", "course/03-counting-is-not-rank"])
def test_code_has_a_button_that_copies_and_output_has_none(browser, page) -> None:
    seen = look(browser, page, 1200)
    assert seen["buttons"] == seen["code"] > 0
    assert seen["onOutputs"] == 0
