"""The command `skiptune dashboard`: started as a process, asked, and ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from skiptune.commands import serving
from skiptune.commands.options import Options
from skiptune.views.dashboard.access import Access
from tests.command_line import Outcome
from tests.dashboards import make_study

Command = Callable[..., Outcome]
TOKEN = "0123456789abcdef-token"


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory, tiny_study: ModuleType) -> str:
    """The URL of a database with a finished study; nobody writes to it."""
    from tests.views.dashboard.conftest import CONFIG

    return make_study(tmp_path_factory.mktemp("served"), tiny_study, CONFIG)


@contextmanager
def started(
    url: str, *words: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command on a free port; yield the process and its first line."""
    with subprocess.Popen(
        [sys.executable, "-m", "skiptune", "dashboard", *words, "--storage", url, "--port", "0"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def status(url: str, *, method: str = "GET", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(url, method=method, headers=named), timeout=30) as reply:
            return int(reply.status)
    except HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_it_prints_the_page_of_the_study_and_serves_until_it_is_ended(
    studied: str, number: int, code: int
) -> None:
    with started(studied, "tiny") as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/studies/1", url)
        assert status(url) == 200
        assert status(url, method="DELETE") == 405
        assert status(url, Host="evil.org") == 403
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Read-only. Ctrl-C ends it\n" in err
    assert f"Stopped. Start it again: skiptune dashboard tiny --storage {studied}" in err
    assert "Traceback" not in err


def test_with_a_token_it_asks_for_it_and_never_prints_it(studied: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    words = ["--token-file", str(file), "--allow-edit", "--host", "0.0.0.0", "-v"]
    with started(studied, *words, "--allow-host", "tune.example.org") as (process, url):
        assert url.startswith("http://127.0.0.1:") and url.endswith("/dashboard")
        api = url.replace("/dashboard", "/api/studies")
        assert status(api) == 401
        assert status(api, Authorization=f"Bearer {TOKEN}") == 200
        assert status(f"{api}?token={TOKEN}", Host="tune.example.org") == 401  # no cookie kept
        assert status(api, Authorization=f"Bearer {TOKEN}", Host="evil.org") == 403
        assert status(api.replace("/api/studies", "/healthz"), Host="10.0.0.7") == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert TOKEN not in out + err
    assert "may edit" in err


def test_json_is_one_document(studied: str) -> None:
    with started(studied, "--json", "-q", SKIPTUNE_DASHBOARD_TOKEN=TOKEN) as (process, first):
        assert first == "{"
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        found = json.loads(first + "".join(lines))
        assert (found["study"], found["edit"]) == (None, False)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert err.startswith("Stopped.")


def test_a_proxy_without_a_token_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    hosts = frozenset({"localhost", "127.0.0.1", "127.0.0.2", "tune.example.org"})
    serving._explain(Options(), Access(hosts=hosts), None, None)
    said = capsys.readouterr().err
    assert "without a token whoever is let through by tune.example.org sees the studies" in said
    serving._explain(Options(), Access(hosts=hosts, token=TOKEN), None, None)
    serving._explain(Options(), Access(), None, None)
    assert "warning" not in capsys.readouterr().err


def test_a_study_that_optuna_does_not_have_yet_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    serving._explain(Options(), Access(), "tiny", None)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Optuna has no trial of tiny yet: it is in the list with the first one" in err
    serving._explain(Options(quiet=True), Access(), "tiny", None)
    assert capsys.readouterr() == ("", "")


# Bad input


def test_the_extra_is_named_where_it_is_missing(
    command: Command, studied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_PACKAGES", ("bottle", "no_such_package"))
    outcome = command("dashboard", "--storage", studied)
    assert outcome.code == 2
    assert "not installed: no_such_package" in outcome.err
    assert "hint: pip install 'skiptune[dashboard]'" in outcome.err


def test_a_used_port_is_refused_with_the_same_command_for_another(
    command: Command, studied: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        outcome = command("dashboard", "tiny", "--port", str(port), "--storage", studied)
    assert outcome.code == 2
    hint = rf"hint: skiptune dashboard tiny --storage {re.escape(studied)} --port (\d+)\n"
    found = re.search(hint, outcome.err)
    assert found is not None and int(found[1]) > port


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["tini"], ["no study 'tini'", "did you mean `tiny`?"]),
        (["--allow-edit"], ["error: --allow-edit", "found: none", "--token-file token"]),
        (["--host", "0.0.0.0"], ["error: --host 0.0.0.0", "other hosts could see", "umask 077"]),
        (["--host", "::"], ["error: --host ::", "other hosts could see"]),
        (["--host", "no host"], ["a name or address of this host"]),
        (["--port", "70000"], ["--port", "70000"]),
        (["--allow-host", "https://x.org/"], ["--allow-host https://x.org/", "scheme"]),
        (["--token-file", "nowhere"], ["--token-file nowhere", "No such file", "chmod 600"]),
        (["--artifacts", "elsewhere"], ["elsewhere", "no such folder"]),
    ],
)
def test_bad_input_is_one_readable_message(
    command: Command, studied: str, words: list[str], parts: list[str]
) -> None:
    outcome = command("dashboard", *words, "--storage", studied)
    assert (outcome.code, outcome.out) == (2, "")
    for part in parts:
        assert part in outcome.err, outcome.err
    assert "hint: " in outcome.err


def test_a_token_that_others_may_read_is_refused(
    command: Command, studied: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o640)
    outcome = command("dashboard", "--token-file", file, "--storage", studied)
    assert outcome.code == 2
    assert "mode 0640" in outcome.err and TOKEN not in outcome.err
    assert f"hint: chmod 600 {file}" in outcome.err


def test_a_token_is_no_option(command: Command, studied: str) -> None:
    outcome = command("dashboard", "--token", TOKEN, "--storage", studied)
    assert (outcome.code, "--token-file" in outcome.err) == (2, True)


def test_a_database_that_is_not_there_is_said(command: Command, tmp_path: Path) -> None:
    outcome = command("dashboard", "--storage", f"sqlite:///{tmp_path / 'nowhere.db'}")
    assert outcome.code == 2
    assert "found: no such file" in outcome.err


def test_the_hint_for_a_token_is_a_command_that_makes_one(
    command: Command, studied: str, tmp_path: Path
) -> None:
    outcome = command("dashboard", "--allow-edit", "--storage", studied)
    hint = outcome.err.partition("hint: ")[2].strip()
    make, _, start = hint.partition(" && ")
    subprocess.run(["bash", "-c", make], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert start.startswith("skiptune dashboard --allow-edit")
    assert start.endswith("--token-file token")
