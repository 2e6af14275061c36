"""A report in a real browser: on a phone, in the dark, printed, without script or network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from skiptune.views.report.contents import report_of
from skiptune.views.report.look import DARK, LIGHT
from skiptune.views.report.page import html_text
from tests.browsers import chromium
from tests.views.report.findings import FINDINGS, MADE, PAIR


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser of its own: its window, its media and its scripts are changed."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        # What it opens by itself at the start is not ours.
        driver.get("about:blank")
        yield driver


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report's file."""
    report = report_of(FINDINGS, pair=PAIR, no_pictures="", made=MADE)
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html_text(report))
    return path.as_uri()


def show(
    driver: Chrome,
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


def ask(driver: Chrome, expression: str) -> Any:
    """Return the value of an expression; the debugger may ask also where pages run no script."""
    found = driver.execute_cdp_cmd(
        "Runtime.evaluate", {"expression": expression, "returnByValue": True}
    )
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")


def logged(driver: Chrome, kind: str) -> list[dict[str, Any]]:
    """Return what was logged since this was asked last."""
    entries: list[dict[str, Any]] = driver.execute("getLog", {"type": kind})["value"]
    return entries


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[k : k + 2], 16) for k in (1, 3, 5)))


def tops(driver: Chrome) -> tuple[float, float]:
    """Return where the pictures before and those after begin."""
    first, second = ask(
        driver,
        "[...document.querySelectorAll('.tiles')].map(t => t.getBoundingClientRect().top)",
    )
    return first, second


def test_nothing_is_asked_of_the_network_and_nothing_is_complained_of(
    chrome: Chrome, address: str
) -> None:
    logged(chrome, "performance")
    logged(chrome, "browser")
    show(chrome, address)
    events = [json.loads(entry["message"])["message"] for entry in logged(chrome, "performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert logged(chrome, "browser") == []


def test_the_slider_moves_from_before_to_after(chrome: Chrome, address: str) -> None:
    show(chrome, address)
    first, second = tops(chrome)
    assert first == second  # one lies over the other
    move = (
        "(value => {const i = document.querySelector('input'); i.value = value;"
        " i.dispatchEvent(new Event('input'));"
        " return getComputedStyle(document.querySelector('.after img')).clipPath})"
    )
    assert ask(chrome, f"{move}(0)") in ("inset(0px)", "inset(0px 0px 0px 0%)")
    assert "25%" in ask(chrome, f"{move}(25)")
    assert "100%" in ask(chrome, f"{move}(100)")


@pytest.mark.parametrize(
    "how", [{"script": False}, {"media": "print", "width": 794}], ids=["no script", "print"]
)
def test_both_pictures_are_shown_one_above_the_other(
    chrome: Chrome, address: str, how: dict[str, Any]
) -> None:
    show(chrome, address, **how)
    first, second = tops(chrome)
    assert second > first + 20
    assert ask(chrome, "getComputedStyle(document.querySelector('.slide')).display") == "none"
    assert ask(chrome, "getComputedStyle(document.querySelector('.after img')).clipPath") == (
        "none"
    )
    names = ask(
        chrome,
        "[...document.querySelectorAll('.pair h3')].map(h => h.getBoundingClientRect().height)",
    )
    assert all(height > 5 for height in names)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_a_page_of_any_width_scrolls_down_only(chrome: Chrome, address: str, width: int) -> None:
    show(chrome, address, width=width)
    assert ask(chrome, "document.documentElement.scrollWidth") <= width
    # Tables that are wider scroll in their own container, and drawings shrink.
    wide = ask(
        chrome,
        "[...document.querySelectorAll('main > *, section > *, figure, svg')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).length",
    )
    assert wide == 0


@pytest.mark.parametrize(("scheme", "colours"), [("light", LIGHT), ("dark", DARK)])
def test_colours_follow_the_scheme(
    chrome: Chrome, address: str, scheme: str, colours: dict[str, str]
) -> None:
    show(chrome, address, scheme=scheme)
    assert ask(chrome, "getComputedStyle(document.body).backgroundColor") == rgb(colours["paper"])
    assert ask(chrome, "getComputedStyle(document.body).color") == rgb(colours["ink"])
    dot = "getComputedStyle(document.querySelector('.drawn .dot.best, .drawn .dot.c0')).fill"
    assert ask(chrome, dot) == rgb(colours["c0"])
    text = "getComputedStyle(document.querySelector('.drawn text.quiet')).fill"
    assert ask(chrome, text) == rgb(colours["quiet"])


def test_a_printed_page_has_everything(chrome: Chrome, address: str) -> None:
    show(chrome, address, media="print", width=794, scheme="dark")
    assert ask(chrome, "getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert ask(chrome, "getComputedStyle(document.querySelector('nav')).display") == "none"
    folded = ask(
        chrome,
        "[...document.querySelectorAll('details .inside')]"
        ".filter(e => e.getBoundingClientRect().height < 5).length",
    )
    assert folded == 0


def test_everything_that_scrolls_is_reached_by_keys(chrome: Chrome, address: str) -> None:
    show(chrome, address, width=390)
    unreached = ask(
        chrome,
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length",
    )
    assert unreached == 0
