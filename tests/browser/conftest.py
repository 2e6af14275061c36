"""The dashboard over a studied database, and a browser that looks at it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from wsgiref.types import WSGIApplication

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from skiptune.storage.database import open_database
from skiptune.views.dashboard.access import Access
from skiptune.views.dashboard.files import StoredFiles
from skiptune.views.dashboard.guard import Guard
from skiptune.views.dashboard.served import Served
from skiptune.views.dashboard.server import listen, resolve
from tests.browsers import chromium
from tests.dashboards import attach, make_study, picture, store_of
from tests.views.dashboard.conftest import CONFIG

SECONDS = 60.0  # for a page, on a machine that does other things


@contextmanager
def serving(make: Callable[[int], WSGIApplication]) -> Iterator[str]:
    """Serve what is made for a port; yield `http://127.0.0.1:PORT`."""
    with listen(resolve("127.0.0.1", 0), command="", complain=pytest.fail) as server:
        server.set_app(make(int(server.server_port)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Dashboards:
    """Servers over one database.

    Arguments:
        folder: Where the database lies.
        url: Of it.
        closing: Ends the servers.
    """

    folder: Path
    url: str
    closing: ExitStack

    def serve(self, access: Access) -> str:
        """Serve until the end of the session; return where."""
        database = self.closing.enter_context(open_database(self.url))
        files = StoredFiles(store_of(self.url), lambda text: None)
        served = Served(database, files, edit=access.edit)
        where = serving(lambda port: Guard(served, access.at(port), healthy=served.is_healthy))
        return self.closing.enter_context(where)

    def attach(self, trial: int, data: bytes | None, suffix: str) -> str:
        """Note a file at a trial, None for one that is not stored; return its path."""
        store = store_of(self.url)
        digest = "f" * 64 if data is None else store.write_bytes(data, suffix)
        # What is noted of it is wrong on purpose: the bytes count.
        kind = "image/png" if suffix == ".png" else "text/html"
        name = f"x{suffix}"
        return attach(self.url, "tiny", digest, name=name, kind=kind, trial=trial)


@pytest.fixture(scope="session")
def dashboards(
    tmp_path_factory: pytest.TempPathFactory, tiny_study: ModuleType
) -> Iterator[Dashboards]:
    """A database with a finished study; trial 0 has a picture, trial 1 one that is lost."""
    folder = tmp_path_factory.mktemp("browsed")
    with ExitStack() as closing:
        found = Dashboards(folder, make_study(folder, tiny_study, CONFIG), closing)
        found.attach(0, picture(), ".png")
        found.attach(1, None, ".png")
        yield found


@pytest.fixture(scope="session")
def readonly(dashboards: Dashboards) -> str:
    """Where everyone may look."""
    return dashboards.serve(Access())


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser for the session."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        # What it opens by itself at the start is not ours.
        driver.get("about:blank")
        yield driver


class Browser:
    """A browser, with what its console says and whom it asks.

    Arguments:
        driver: It.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self.logs()

    def open(self, url: str, *texts: str) -> str:
        """Open a page, wait until it shows all texts, and return all that it shows."""
        self.driver.get(url)
        return self.shows(*texts)

    def shows(self, *texts: str) -> str:
        """Wait until the page shows all texts, and return all that it shows."""
        found = ""

        def all_there(driver: Chrome) -> bool:
            nonlocal found
            found = driver.find_element(By.TAG_NAME, "body").text
            return all(text in found for text in texts)

        WebDriverWait(self.driver, SECONDS, 0.1, [WebDriverException]).until(all_there, f"{texts}")
        return found

    def wait(self, script: str) -> Any:
        """Wait until an expression of JavaScript is true, and return its value."""
        return WebDriverWait(self.driver, SECONDS, 0.1).until(
            lambda driver: driver.execute_script(f"return {script}"), script
        )

    def fetch(self, path: str, **options: Any) -> int | str:
        """Let the page send a request; return the status, or what the browser says against it."""
        found = self.driver.execute_async_script(
            "const [path, options, done] = arguments;"
            "fetch(path, options).then(r => done(r.status), e => done(String(e)))",
            path,
            options,
        )
        assert isinstance(found, int | str)
        return found

    def logs(self) -> tuple[list[str], set[str]]:
        """Return the errors of the console, and the hosts asked, since the last call."""
        errors = [
            str(entry["message"])
            for entry in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if entry["level"] == "SEVERE"
        ]
        hosts = set()
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = str(message["params"]["request"]["url"])
                ours = not str(message["params"].get("documentURL", "")).startswith("chrome")
                if ours and not url.startswith(("data:", "blob:", "chrome", "about:")):
                    hosts.add("/".join(url.split("/")[:3]))
        return errors, hosts


@pytest.fixture
def browser(chrome: Chrome) -> Iterator[Browser]:
    """The browser, without cookies, on an empty page."""
    yield Browser(chrome)
    chrome.delete_all_cookies()
    chrome.get("about:blank")
