from __future__ import annotations

from pathlib import Path

import pytest

from tests import browsers, conftest


def test_the_folder_is_left_out_and_the_header_says_why(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(browsers.VARIABLE, raising=False)
    absent = browsers.missing((Path("/bin/sh"), Path("/no/chromium")))
    assert absent == ["/no/chromium"]
    monkeypatch.setattr(browsers, "missing", lambda: absent)
    assert conftest.pytest_ignore_collect(browsers.FOLDER, pytestconfig) is True
    assert conftest.pytest_ignore_collect(browsers.FOLDER / "test_x.py", pytestconfig) is True
    assert conftest.pytest_ignore_collect(browsers.FOLDER.parent, pytestconfig) is None
    said = conftest.pytest_report_header(pytestconfig)
    assert said == "browser: none (/no/chromium), tests/browser is not collected"
    conftest.pytest_configure(pytestconfig)


def test_where_a_browser_is_wanted_its_absence_is_an_error(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsers, "missing", lambda: ["/no/chromium"])
    monkeypatch.setenv(browsers.VARIABLE, "1")
    with pytest.raises(pytest.UsageError, match="apt-get install chromium chromium-driver"):
        conftest.pytest_configure(pytestconfig)
    monkeypatch.setenv(browsers.VARIABLE, "0")
    conftest.pytest_configure(pytestconfig)


def test_with_a_browser_everything_is_collected(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsers, "missing", lambda: [])
    monkeypatch.setenv(browsers.VARIABLE, "1")
    conftest.pytest_configure(pytestconfig)
    assert conftest.pytest_ignore_collect(browsers.FOLDER, pytestconfig) is None
    assert conftest.pytest_report_header(pytestconfig).endswith("chromium")
