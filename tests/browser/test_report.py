"""A report in a real browser: on a phone, in the dark, printed, without script or network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from skiptune.views.report.contents import report_of
from skiptune.views.report.look import DARK, LIGHT
from skiptune.views.report.page import html_text
from tests.views.report.findings import FINDINGS, MADE, PAIR

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

# To be merged with the fixture of tests/browser/conftest.py, which leaves the folder out where
# there is no Chromium.


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """A headless Chromium that logs its requests and its console."""
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report's file."""
    report = report_of(FINDINGS, pair=PAIR, no_pictures="", made=MADE)
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html_text(report))
    return path.as_uri()


def show(
    driver: webdriver.Chrome,
    address: str,
    *,
    width: int = 1280,
    scheme: str = "light",
    media: str = "",
    script: bool = True,
) -> None:
    """Load a page as somebody sees it."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    driver.get(address)


def ask(driver: webdriver.Chrome, expression: str) -> Any:
    """Return the value of an expression; the debugger may ask also where pages run no script."""
    found = driver.execute_cdp_cmd(
        "Runtime.evaluate", {"expression": expression, "returnByValue": True}
    )
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")


def logged(driver: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """Return what was logged since this was asked last."""
    entries: list[dict[str, Any]] = driver.execute("getLog", {"type": kind})["value"]
    return entries


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[k : k + 2], 16) for k in (1, 3, 5)))


def tops(driver: webdriver.Chrome) -> tuple[float, float]:
    """Return where the pictures before and those after begin."""
    first, second = ask(
        driver,
        "[...document.querySelectorAll('.tiles')].map(t => t.getBoundingClientRect().top)",
    )
    return first, second


def test_nothing_is_asked_of_the_network_and_nothing_is_complained_of(
    chromium: webdriver.Chrome, address: str
) -> None:
    logged(chromium, "performance")
    logged(chromium, "browser")
    show(chromium, address)
    events = [json.loads(entry["message"])["message"] for entry in logged(chromium, "performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert logged(chromium, "browser") == []


def test_the_slider_moves_from_before_to_after(chromium: webdriver.Chrome, address: str) -> None:
    show(chromium, address)
    first, second = tops(chromium)
    assert first == second  # one lies over the other
    move = (
        "(value => {const i = document.querySelector('input'); i.value = value;"
        " i.dispatchEvent(new Event('input'));"
        " return getComputedStyle(document.querySelector('.after img')).clipPath})"
    )
    assert ask(chromium, f"{move}(0)") in ("inset(0px)", "inset(0px 0px 0px 0%)")
    assert "25%" in ask(chromium, f"{move}(25)")
    assert "100%" in ask(chromium, f"{move}(100)")


@pytest.mark.parametrize(
    "how", [{"script": False}, {"media": "print", "width": 794}], ids=["no script", "print"]
)
def test_both_pictures_are_shown_one_above_the_other(
    chromium: webdriver.Chrome, address: str, how: dict[str, Any]
) -> None:
    show(chromium, address, **how)
    first, second = tops(chromium)
    assert second > first + 20
    assert ask(chromium, "getComputedStyle(document.querySelector('.slide')).display") == "none"
    assert ask(chromium, "getComputedStyle(document.querySelector('.after img')).clipPath") == (
        "none"
    )
    names = ask(
        chromium,
        "[...document.querySelectorAll('.pair h3')].map(h => h.getBoundingClientRect().height)",
    )
    assert all(height > 5 for height in names)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_a_page_of_any_width_scrolls_down_only(
    chromium: webdriver.Chrome, address: str, width: int
) -> None:
    show(chromium, address, width=width)
    assert ask(chromium, "document.documentElement.scrollWidth") <= width
    # Tables that are wider scroll in their own container, and drawings shrink.
    wide = ask(
        chromium,
        "[...document.querySelectorAll('main > *, section > *, figure, svg')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).length",
    )
    assert wide == 0


@pytest.mark.parametrize(("scheme", "colours"), [("light", LIGHT), ("dark", DARK)])
def test_colours_follow_the_scheme(
    chromium: webdriver.Chrome, address: str, scheme: str, colours: dict[str, str]
) -> None:
    show(chromium, address, scheme=scheme)
    assert ask(chromium, "getComputedStyle(document.body).backgroundColor") == rgb(
        colours["paper"]
    )
    assert ask(chromium, "getComputedStyle(document.body).color") == rgb(colours["ink"])
    dot = "getComputedStyle(document.querySelector('.drawn .dot.best, .drawn .dot.c0')).fill"
    assert ask(chromium, dot) == rgb(colours["c0"])
    text = "getComputedStyle(document.querySelector('.drawn text.quiet')).fill"
    assert ask(chromium, text) == rgb(colours["quiet"])


def test_a_printed_page_has_everything(chromium: webdriver.Chrome, address: str) -> None:
    show(chromium, address, media="print", width=794, scheme="dark")
    assert ask(chromium, "getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert ask(chromium, "getComputedStyle(document.querySelector('nav')).display") == "none"
    folded = ask(
        chromium,
        "[...document.querySelectorAll('details .inside')]"
        ".filter(e => e.getBoundingClientRect().height < 5).length",
    )
    assert folded == 0


def test_everything_that_scrolls_is_reached_by_keys(
    chromium: webdriver.Chrome, address: str
) -> None:
    show(chromium, address, width=390)
    unreached = ask(
        chromium,
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length",
    )
    assert unreached == 0
