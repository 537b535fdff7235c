"""The explorer in a real browser: the same ranks and minimum filters as the library, by keyboard, at two widths.

    python -m pytest -m browser tests/docs/test_explorer.py

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`) and the packages of the group `docs`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.ranks.polyphase import fewest_filters, polyphase_law
from tests.docs.conftest import NEEDS_BROWSER

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/site/explorer/index.html").as_uri()
PICTURES = ROOT / "out/explorer"  # screenshots, to be looked at
DENSE = """
const s = {...arguments[0], activity: 100}, f = analyse(s), steps = staircase(s, s.filters);
return {rank: f.rank, classes: f.parts.map(p => p.rank), fewest: f.fewest, known: f.determined.flat(), steps};
"""
BELOW_THE_LAW = (  # the smaller of filters × taps and pixels says 32 and 8
    ({"size": 6, "kernel": 4, "stride": 1, "padding": 0, "dilation": 1, "filters": 2}, 28),
    ({"size": 3, "kernel": 2, "stride": 1, "padding": 0, "dilation": 1, "filters": 2}, 7),
)
LIMITS = {
    "size": (2, 16),
    "kernel": (1, 7),
    "stride": (1, 4),
    "padding": (0, 3),
    "dilation": (1, 3),
    "filters": (1, 40),
}

pytestmark = [pytest.mark.browser, NEEDS_BROWSER]


def show(driver, setting: dict) -> None:
    """Open a setting by its URL and wait for the analysis."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get("about:blank")
    driver.get(f"{PAGE}#{'&'.join(f'{name}={value}' for name, value in setting.items())}")
    WebDriverWait(driver, 60).until(lambda d: d.find_element("tag name", "body").get_attribute("data-state") == "ready")


def analysed(driver) -> dict:
    return driver.execute_script(
        "const f = window.explorer.found; return f && {...f, classes: f.parts.map(p => p.rank)}"
    )


def settings(count: int):
    rng = np.random.default_rng(0)
    while count:
        setting = {name: int(rng.integers(low, high + 1)) for name, (low, high) in LIMITS.items()}
        if setting["size"] + 2 * setting["padding"] > setting["dilation"] * (setting["kernel"] - 1):
            count -= 1
            yield setting


def layer_of(setting: dict) -> ca.PlacedLayer:
    names = ("stride", "padding", "dilation")
    conv = ca.Conv2d(setting["filters"], setting["kernel"], **{name: setting[name] for name in names})
    return conv.place((1, setting["size"], setting["size"]))


def test_200_random_settings_have_the_ranks_and_minimum_filters_of_the_library(browser) -> None:
    show(browser, {"size": 4})
    for setting in settings(200):
        found = browser.execute_script(DENSE, setting)
        layer = layer_of(setting)
        law = polyphase_law(layer)
        assert found["classes"] == [part.rank for part in law.classes], setting
        assert found["rank"] == found["steps"][-1] == law.rank
        fewest = fewest_filters(layer)
        assert found["fewest"] == (None if fewest is None else fewest[0]), setting
        known = ca.generic_rank(layer, kinds=["gradient"]).determined
        assert found["known"] == known.ravel().tolist(), setting


@pytest.mark.parametrize(("setting", "rank"), BELOW_THE_LAW)
def test_the_curve_passes_through_the_rank_where_the_law_fails(browser, setting, rank) -> None:
    show(browser, {**setting, "activity": 100})
    assert analysed(browser)["rank"] == polyphase_law(layer_of(setting)).rank == rank
    steps = browser.execute_script("return staircase(window.explorer.setting, 6)")
    laws = [polyphase_law(layer_of({**setting, "filters": filters})).rank for filters in range(1, 7)]
    assert steps == laws
    text = browser.find_element("id", "verdict").text + browser.find_element("id", "rows").text
    assert f"there are {rank}." in text
    assert "elimination" in text


def test_cut_off_outputs_have_the_rank_of_the_library_with_the_same_mask(browser) -> None:
    show(browser, {"size": 4})
    for number, setting in enumerate(settings(40)):
        setting["activity"] = 20 + number
        script = "const f = analyse(arguments[0]); return {rank: f.rank, mask: f.mask, known: f.determined.flat()}"
        found = browser.execute_script(script, setting)
        expected = ca.generic_rank(layer_of(setting), kinds=["gradient"], active=np.array(found["mask"]))
        assert found["rank"] == expected.rank, setting
        assert found["known"] == expected.determined.ravel().tolist()


def test_the_page_says_what_was_computed(browser) -> None:
    show(browser, {"size": 8, "kernel": 3, "stride": 2, "padding": 1, "dilation": 1, "filters": 4, "activity": 100})
    found = analysed(browser)
    text = browser.find_element("tag name", "main").text
    assert (found["rank"], found["fewest"], found["byCount"]) == (36, 16, 8)
    assert "Not determined" in browser.find_element("id", "verdict").text or "Partly" in text
    rows = browser.find_elements("css selector", "#rows tr")
    assert [row.text.split()[-2] for row in rows][-1] == "12" or len(rows) == 4
    assert len(browser.find_elements("css selector", "#classes rect")) == 64
    for picture in ("ladder", "classes", "map"):
        svg = browser.find_element("css selector", f"#{picture} svg")
        assert svg.get_attribute("role") == "img"
        assert svg.get_attribute("aria-label")


def test_a_kernel_that_does_not_fit_says_what_to_do(browser) -> None:
    show(browser, {"size": 3, "kernel": 7, "padding": 0})
    assert "does not fit" in browser.find_element("id", "verdict").text


def test_a_small_layer_has_a_graph_and_a_large_one_says_why_not(browser) -> None:
    small = {"size": 4, "kernel": 3, "stride": 2, "padding": 1, "dilation": 1, "filters": 1}
    show(browser, small)
    edges = len(browser.find_elements("css selector", "#graph g path"))
    assert edges == ca.gradient_equations(layer_of(small)).pattern.nnz
    show(browser, {"size": 24, "filters": 30})
    assert "too many to read" in browser.find_element("id", "graph").text


def test_everything_works_by_keyboard_and_has_a_name(browser) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, {"size": 8, "filters": 4})
    browser.find_element("css selector", "header a").send_keys(Keys.TAB)
    names = []
    for _ in range(15):
        active = browser.switch_to.active_element
        names.append(active.accessible_name)
        if active.get_attribute("id") == "filters":
            active.send_keys(Keys.ARROW_RIGHT)
        active.send_keys(Keys.TAB)
    assert names[0] == "Input side"
    assert all(names)
    assert "Copy a link to this setting" in names
    assert browser.execute_script("return location.hash").endswith("filters=5&activity=100")


def test_a_setting_is_shared_by_its_url_and_read_again(browser) -> None:
    show(browser, {"size": 9, "kernel": 2, "stride": 3, "padding": 0, "dilation": 2, "filters": 7, "activity": 60})
    shown = browser.execute_script("return window.explorer.setting")
    assert shown == {"size": 9, "kernel": 2, "stride": 3, "padding": 0, "dilation": 2, "filters": 7, "activity": 60}
    show(browser, {"size": 1000, "kernel": "x", "stride": -3})
    shown = browser.execute_script("return window.explorer.setting")
    assert (shown["size"], shown["kernel"], shown["stride"]) == (24, 3, 1)


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window_and_no_table_is_cut(browser, width) -> None:
    def resize(height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    resize(900)
    try:
        for name, setting in {
            "small": {"size": 6, "kernel": 4, "stride": 1, "padding": 0, "filters": 2},
            "large": {"size": 24, "kernel": 7, "stride": 4, "padding": 0, "filters": 80, "activity": 90},
        }.items():
            show(browser, setting)
            assert browser.execute_script("return innerWidth") == width
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            shown, whole = browser.execute_script(
                "const table = document.querySelector('.scroll'); return [table.clientWidth, table.scrollWidth]"
            )
            assert whole <= shown
            resize(browser.execute_script("return document.documentElement.scrollHeight"))
            PICTURES.mkdir(parents=True, exist_ok=True)
            assert browser.save_screenshot(str(PICTURES / f"{name}-{width}.png"))
            resize(900)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
