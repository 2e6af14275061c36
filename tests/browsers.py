"""Whether there is a browser for `tests/browser`, and how it is started.

Where there is none the folder is not collected, and the header of the run says so. With
SKIPTUNE_BROWSER=1, as continuous integration sets it, its absence is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["FOLDER", "chromium", "header", "is_wanted", "missing"]

FOLDER: Final = Path(__file__).with_name("browser")
VARIABLE: Final = "SKIPTUNE_BROWSER"

# Where Debian's packages chromium and chromium-driver put them.
CHROMIUM: Final = Path("/usr/bin/chromium")
DRIVER: Final = Path("/usr/bin/chromedriver")

# No sandbox: it needs rights that a container does not give. Nothing but our own pages is opened.
FLAGS: Final = (
    "headless no-sandbox disable-gpu disable-quic disable-dev-shm-usage no-first-run"
    " disable-background-networking disable-component-update disable-sync"
    " window-size=1400,1000"
).split()


def missing(programs: tuple[Path, ...] = (CHROMIUM, DRIVER)) -> list[str]:
    """Return the paths of the programs that are not there."""
    return [str(program) for program in programs if not os.access(program, os.X_OK)]


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a run without the browser is an error."""
    return environment.get(VARIABLE, "") not in ("", "0")


def header(absent: list[str]) -> str:
    """Return the line that the header of a run says of the browser."""
    if absent:
        return f"browser: none ({', '.join(absent)}), tests/browser is not collected"
    return f"browser: {CHROMIUM}"


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Start a browser without a window.

    Arguments:
        profile: An empty folder for it.
    """
    # Not at the top: every run of the tests reads this file.
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.binary_location = str(CHROMIUM)
    # What the console shows, and every request.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()
