"""The dashboard as a browser sees it: it works under our policies, and keeps to this host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType
from wsgiref.types import StartResponse, WSGIEnvironment

import numpy as np
import optuna
import pytest
from selenium.webdriver.common.by import By

from skiptune.search.sample_grid import grid_png
from skiptune.search.upkeep import project
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import open_database
from skiptune.storage.optuna_attributes import optuna_studies
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.views.dashboard.access import Access
from skiptune.views.dashboard.content import refresh
from tests.browser.conftest import Browser, Dashboards, serving
from tests.dashboards import make_study, store_of
from tests.views.dashboard.conftest import CONFIG

TOKEN = "0123456789abcdef-token"
NOTE = {"method": "PUT", "headers": {"Content-Type": "application/json"}}


def clean(browser: Browser, *hosts: str) -> None:
    """The console has no error, and nobody else was asked."""
    errors, asked = browser.logs()
    assert errors == []
    assert asked == set(hosts)


def test_the_studies_are_listed(browser: Browser, readonly: str) -> None:
    browser.open(readonly, "1. tiny", "2. tiny/500", "3. tiny/confirmed")
    assert browser.driver.current_url.startswith(f"{readonly}/dashboard")
    clean(browser, readonly)


def test_a_study_shows_its_plots_and_its_table_of_trials(browser: Browser, readonly: str) -> None:
    browser.open(f"{readonly}/dashboard/studies/1", "History", "Best Trial", "FD(pooled-pixels)")
    browser.wait('document.querySelectorAll(".js-plotly-plot .main-svg").length >= 6')
    browser.open(f"{readonly}/dashboard/studies/1/smartSelection", "skip/4x4_block0")
    browser.wait('document.querySelectorAll("table tbody tr").length >= 7')
    browser.open(f"{readonly}/dashboard/studies/1/analytics", "Contour")
    browser.wait('document.querySelectorAll(".js-plotly-plot .main-svg").length >= 4')
    clean(browser, readonly)


def test_a_trial_shows_its_scales_and_its_picture(browser: Browser, readonly: str) -> None:
    page = f"{readonly}/dashboard/studies/1/trials"
    shown = browser.open(f"{page}?numbers=0", "Trial 0 (trial_id=", "skip/4x4_block0 1.0")
    assert "FD" in shown or "0." in shown
    loaded = '[...document.images].filter(i => i.src.includes("/artifacts/") && i.complete)'
    assert browser.wait(f"{loaded}.map(i => i.naturalWidth)[0]") == 24
    clean(browser, readonly)
    # One that is lost: a picture says so, and the page is there.
    browser.open(f"{page}?numbers=1", "Trial 1 (trial_id=", "skip/4x4_block0")
    assert browser.wait(f"{loaded}.map(i => i.naturalWidth)[0]") == 320
    errors, asked = browser.logs()
    assert asked == {readonly}
    assert all("404" in error and "/artifacts/" in error for error in errors)


@pytest.fixture(scope="session")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_study: ModuleType
) -> Iterator[dict[str, str]]:
    """The pages of a finished study and of what is confirmed, with all that is made of rows."""
    folder = tmp_path_factory.mktemp("made")
    url = make_study(folder, tiny_study, CONFIG)
    with ExitStack() as closing:
        store = store_of(url)
        with open_database(url) as database:
            study = ledger.require_study(database, "tiny")
            for one in ledger.evaluations(database, study.id, block=SEARCH_BLOCK):
                # Made-up studies have no images: what a worker would have kept.
                images = np.full((16, 3, 32, 32), 10 * one.number, dtype=np.uint8)
                data = grid_png(images, np.ones(16, dtype=bool), {"number": str(one.number)})
                key = {"series": one.series, "schedule": one.schedule}
                stored = store.write_bytes(data, ".png")
                ledger.put_grid(database, digest=stored, bytes=len(data), **key)
            project(database, "tiny", rebuild=True)
            refresh(database, store, "tiny")
            # Made anew, they have other numbers.
            numbers = optuna_studies(database, ["tiny", "tiny/confirmed"])
        where = Dashboards(folder, url, closing).serve(Access())
        yield {name: f"{where}/dashboard/studies/{key}" for name, key in numbers.items()}


def test_what_is_made_of_a_study_is_shown(browser: Browser, made: dict[str, str]) -> None:
    page = made["tiny"]
    # Titles of figures are drawings, which have no text of the page.
    browser.open(page, "Best Trial")
    titles = '[...document.querySelectorAll(".gtitle")].map(t => t.textContent)'
    browser.wait(f'{titles}.some(t => t.startsWith("Scales over depth"))')
    browser.wait(f'{titles}.some(t => t.startsWith("Gain over images"))')
    browser.wait('document.querySelectorAll(".js-plotly-plot .scatterlayer .trace").length >= 3')
    browser.open(f"{page}/note", "Verdict:", "Best schedule", "4x4_block0")
    shown = browser.open(f"{page}/trials?numbers=0", "images.png")
    assert "NFE" in shown and "verdict" in shown
    loaded = '[...document.images].filter(i => i.src.includes("/artifacts/") && i.complete)'
    assert browser.wait(f"{loaded}.map(i => i.naturalWidth)[0]") > 100
    browser.open(made["tiny/confirmed"], "tiny/confirmed")
    clean(browser, page.split("/dashboard")[0])


def test_a_stored_file_runs_nothing(
    browser: Browser, dashboards: Dashboards, readonly: str
) -> None:
    text = b"<!DOCTYPE html><title>ran</title><script>document.title = 'ran'</script>"
    path = dashboards.attach(2, text, ".txt")
    browser.open(readonly + path, "<script>")
    assert browser.driver.title == ""
    assert browser.driver.execute_script("return self.origin") == "null"
    clean(browser, readonly)


def test_the_page_cannot_change_anything(
    browser: Browser, dashboards: Dashboards, readonly: str
) -> None:
    browser.open(readonly, "1. tiny")
    assert browser.fetch("/api/studies/1", method="DELETE") == 405
    assert browser.fetch("/api/studies/1/note", **NOTE, body='{"version":1,"body":"x"}') == 405
    created = json.dumps({"study_name": "new", "directions": ["minimize"]})
    assert browser.fetch("/api/studies", method="POST", body=created) == 405
    assert browser.fetch("/api/studies", method="PATCH") == 405
    with open_database(dashboards.url) as database:
        names = optuna.get_all_study_names(optuna_storage(database))
    assert set(names) == {"tiny", "tiny/500", "tiny/confirmed"}


@pytest.fixture(scope="session")
def editable(dashboards: Dashboards) -> str:
    """Where who has the token may look and edit."""
    return dashboards.serve(Access(token=TOKEN, edit=True))


def log_in(browser: Browser, token: str) -> None:
    field = browser.driver.find_element(By.ID, "token")
    field.send_keys(token)
    field.submit()


def test_who_logs_in_sees_the_page_and_may_edit(browser: Browser, editable: str) -> None:
    browser.open(f"{editable}/dashboard/studies/1", "Token", "Log in")
    log_in(browser, "wrong")
    browser.shows("This is not the token.")
    browser.logs()  # the refusal stands in the console
    log_in(browser, TOKEN)
    browser.shows("History", "tiny (id=1)")
    assert browser.driver.current_url == f"{editable}/dashboard/studies/1"
    # Scripts do not see the cookie.
    assert browser.driver.execute_script("return document.cookie") == ""
    body = json.dumps({"version": 1, "body": "seen **by eye**"})
    assert browser.fetch("/api/studies/1/note", **NOTE, body=body) == 204
    browser.open(f"{editable}/dashboard/studies/1/note", "seen by eye")
    clean(browser, editable)


def test_another_site_changes_nothing_with_the_cookie_of_somebody(
    browser: Browser, dashboards: Dashboards, editable: str
) -> None:
    browser.open(f"{editable}/dashboard/studies/1?token={TOKEN}", "History")
    assert browser.driver.current_url == f"{editable}/dashboard/studies/1"
    path = dashboards.attach(3, b"a text of ours", ".txt")
    page = f"""<!DOCTYPE html><title>evil</title><body>evil
    <form method="post" action="{editable}/api/trials/1/user-attrs" enctype="text/plain">
    <input name='{{"user_attrs": {{"evil": 1}}, "x": "' value='"}}'></form>"""

    def evil(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [page.encode()]

    # A name of this host on another port: the same site to a browser, which sends the cookie.
    with serving(lambda port: evil) as elsewhere:
        browser.open(elsewhere, "evil")
        for options in (
            {"mode": "no-cors", "credentials": "include", "method": "POST", "body": "{}"},
            {"mode": "no-cors", "credentials": "include"},
        ):
            browser.fetch(f"{editable}{path}", **options)
        assert "TypeError" in str(browser.fetch(f"{editable}/api/studies", credentials="include"))
        change = {"mode": "cors", "credentials": "include", "method": "DELETE"}
        assert "TypeError" in str(browser.fetch(f"{editable}/api/studies/1", **change))
        browser.driver.execute_script("document.forms[0].submit()")
        browser.shows("another site may not")
    with open_database(dashboards.url) as database:
        study = optuna.load_study(study_name="tiny", storage=optuna_storage(database))
        assert "evil" not in study.trials[0].user_attrs
