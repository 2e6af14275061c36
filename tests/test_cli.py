"""The command line: what it prints where, how it ends, and that nothing is lost on the way."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click import Context
from PIL import Image

from skiptune import __version__
from skiptune.cli import COMMANDS, cli, command_text
from skiptune.sampling import images
from skiptune.search import chunks, overview, stopping
from skiptune.storage import ledger
from skiptune.storage.database import open_database
from tests.command_line import Outcome, write_spec

Command = Callable[..., Outcome]

FAST = {"search__evaluations": 3, "confirm__images": 250}


@pytest.fixture
def spec(tiny_study: ModuleType, study_folder: Path) -> Path:
    """A study file; the command runs in the folder above it."""
    return write_spec(tiny_study, study_folder, **FAST)


def command_of(name: str) -> Any:
    found = cli.get_command(Context(cli), name)
    assert found is not None
    return found


# Help


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_help_lists_every_command_in_order(command: Command, words: tuple[str, ...]) -> None:
    outcome = command(*words)
    text = outcome.out or outcome.err
    listed = re.findall(r"^  (\w+)  +\S", text[text.index("Commands:") :], flags=re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_in_a_help_page_can_be_run(command: Command, name: str) -> None:
    outcome = command(name, "-h")
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= 96
    examples = [
        re.split(r" {3,}", line.strip())[0]
        for line in outcome.out.splitlines()
        if line.startswith("    skiptune ")
    ]
    assert 2 <= len(examples) <= 4
    for example in examples:
        program, subcommand, *words = shlex.split(example)
        assert (program, subcommand) == ("skiptune", name)
        command_of(name).make_context(name, words)  # raises on a word it does not know


@pytest.mark.parametrize("name", ["init", "upgrade", "version", "check", "gc", "project"])
def test_every_example_of_db_can_be_run(command: Command, name: str) -> None:
    outcome = command("db", name, "-h")
    assert outcome.code == 0
    group = command_of("db")
    assert isinstance(group, click.Group)
    examples = re.findall(r"^    skiptune db (.*)$", outcome.out, flags=re.MULTILINE)
    assert len(examples) == 2
    for subcommand, *words in map(shlex.split, examples):
        assert subcommand == name
        group.commands[name].make_context(name, words)


@pytest.mark.parametrize("words", [(), ("db",)])
def test_the_short_help_of_a_command_is_not_cut(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = command(*words, "-h").out
    listed = text[text.index("Commands:") :].splitlines()[1:]
    assert len(listed) >= 6
    assert [line for line in listed if line.endswith("...") or line.startswith("   ")] == []


def test_version(command: Command) -> None:
    assert command("--version") == Outcome(0, f"skiptune {__version__}\n", "")


def test_reading_commands_load_neither_torch_nor_optuna(command: Command, spec: Path) -> None:
    assert command("tune", spec, "-q", "--no-progress").code == 0
    program = (
        "import sys\n"
        "from skiptune.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'optuna', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for words in (["-h"], ["status"], ["status", "tiny"], ["best", "tiny", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr


def test_doctor_loads_neither_torch_nor_optuna(command: Command, spec: Path) -> None:
    assert command("create", spec, "-q").code == 0
    program = (
        "import sys\n"
        "from skiptune.cli import main\n"
        "try: main(['doctor', '--fix'])\n"
        "except SystemExit as end: assert end.code in (0, 1), end.code\n"
        "heavy = {'torch', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# Usage errors and bugs


@pytest.mark.parametrize(
    ("words", "where", "found"),
    [
        (["tnue"], "skiptune", "tnue"),
        (["tune", "--colour"], "skiptune tune --colour", "an unknown option"),
        (["best"], "skiptune best STUDY", "nothing"),
        (["best", "x", "--top", "0"], "skiptune best --top", "0 is not in the range"),
        (["best", "x", "--top"], "skiptune best --top", "requires an argument"),
        (["status", "a", "b"], "skiptune status", "unexpected extra argument"),
        (["--storage"], "skiptune --storage", "requires an argument"),
    ],
)
def test_a_usage_error_has_the_shape_of_every_error(
    command: Command, words: list[str], where: str, found: str
) -> None:
    outcome = command(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert lines[0] == f"error: {where}"
    assert lines[1].startswith("       expected: ")
    assert lines[2].startswith("       found: ")
    assert found in lines[2]
    assert lines[3] == ""
    assert lines[4].startswith("hint: see `skiptune")


@pytest.mark.parametrize("words", [(), ("db",)])
def test_a_group_alone_shows_its_help_page(command: Command, words: tuple[str, ...]) -> None:
    alone, asked = command(*words), command(*words, "--help")
    assert (alone.code, alone.out, asked.code) == (2, "", 0)
    assert alone.err == asked.out


def test_the_nearest_command_is_named(command: Command) -> None:
    assert "(did you mean `tune`?)\n" in command("tnue").err
    assert "(did you mean `sensitivity`?)\n" in command("-q", "sensitivty", "x").err
    assert "did you mean" not in command("qqq").err


def test_a_bug_is_one_line_and_a_traceback_only_when_asked(
    command: Command, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(overview, "overviews", broken)
    assert command("create", spec).code == 0
    outcome = command("status", "-q")
    assert outcome.code == 1
    assert outcome.err.startswith("skiptune failed: RuntimeError: the sky fell\n")
    assert "skiptune status -q --debug" in outcome.err
    assert "Traceback" not in outcome.err
    outcome = command("status", "-q", "--debug")
    assert outcome.code == 1
    assert "Traceback" in outcome.err


def test_a_worker_that_keeps_failing_says_why(
    command: Command, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **named: Any) -> Iterator[Any]:
        raise RuntimeError("the card fell off the bus")

    monkeypatch.setattr(chunks, "sample", broken)
    outcome = command("tune", spec, "-q")
    assert outcome.code == 1
    assert "5 times in a row: RuntimeError: the card fell off the bus" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_error_shows_its_traceback_only_when_asked(command: Command) -> None:
    assert "Traceback" not in command("status").err
    outcome = command("--debug", "status")
    assert outcome.code == 2
    assert "Traceback" in outcome.err


# Shared options


def test_shared_options_stand_before_and_after_the_command(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (
        ["--storage", "sqlite:///here.db", "status"],
        ["status", "--storage", "sqlite:///here.db"],
        ["--storage", "sqlite:///there.db", "status", "--storage", "sqlite:///here.db"],
    ):
        assert command(*words).err.startswith("error: sqlite:///here.db\n")
    monkeypatch.setenv("SKIPTUNE_STORAGE", "sqlite:///from-environment.db")
    assert command("status").err.startswith("error: sqlite:///from-environment.db\n")
    for words in (
        ["status", "--storage", "sqlite:///here.db"],
        ["--storage", "sqlite:///here.db", "status"],
    ):
        assert command(*words).err.startswith("error: sqlite:///here.db\n")


def test_a_password_is_never_printed(command: Command) -> None:
    url = "postgresql://me:s3cret@127.0.0.1:1/studies"  # nobody listens on port 1
    for words in (("status",), ("worker", "fashion"), ("db", "check"), ("pause", "fashion")):
        outcome = command(*words, "--storage", url)
        assert outcome.code == 1
        assert "postgresql://me:***@127.0.0.1:1/studies" in outcome.err
        assert "s3cret" not in outcome.err + outcome.out
    assert "s3cret" not in command("env", "--storage", url).out
    assert "s3cret" not in command_text(("tune", "--storage", url, f"--storage={url}"))


# Before a study


def test_init_writes_a_study_file_that_check_can_read(command: Command, tmp_path: Path) -> None:
    outcome = command("init", "study.yaml")
    assert (outcome.code, outcome.out) == (0, "")
    assert "skiptune check study.yaml" in outcome.err
    text = (tmp_path / "study.yaml").read_text()
    assert "#" in text
    again = command("init", "study.yaml")
    assert again.code == 2
    assert (tmp_path / "study.yaml").read_text() == text
    assert command("init", "study.yaml", "--force").code == 0
    assert json.loads(command("init", "other.yaml", "--json").out)["written"] == "other.yaml"
    assert "fashion" in command("init", "--list").out.split()
    assert "fashion" in json.loads(command("init", "--list", "--json").out)["presets"]


def test_skips_of_a_checkpoint_and_of_a_study(command: Command, spec: Path) -> None:
    from skiptune.sampling.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(spec.parent / "tiny.safetensors")
    outcome = command("skips", checkpoint.path)
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines() if "_block" in line]
    assert [row[0] for row in rows] == [skip.address for skip in checkpoint.skips]
    deepest = checkpoint.skips[0]
    channels = [str(deepest.main_channels), "+", str(deepest.skip_channels)]
    assert rows[0][1:6] == ["0", *channels, str(deepest.groups)]
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "shortcut only" in outcome.out
    assert checkpoint.sha256 in outcome.err

    first = checkpoint.skips[0].address
    plain = json.loads(command("skips", spec, "--json", "-s", f"space.skips=[{first}]").out)
    assert [row["searched"] for row in plain["skips"]] == [
        skip.address == first for skip in checkpoint.skips
    ]
    assert plain["sha256"] == checkpoint.sha256

    traced = command("skips", checkpoint.path, "--trace")
    assert traced.code == 0
    assert f"{len(checkpoint.skips)} skips in one call, as its family has them" in traced.err
    assert all(f"model.dec.{skip.address}" in traced.out for skip in checkpoint.skips)
    plain = json.loads(command("skips", checkpoint.path, "--trace", "--json").out)
    assert plain["agrees"] is True
    assert [row["mixed"] for row in plain["traced"]] == [s.mixed for s in checkpoint.skips]


def test_check_tells_what_would_happen_and_writes_nothing(
    command: Command, spec: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    outcome = command("check", spec)
    assert outcome.code == 0, outcome.err
    names = [line.split()[1] for line in outcome.out.splitlines()]
    assert names == ["spec", "device", "parts", "storage", "sampling", "cost"]
    assert all(re.search(r"\(\d+\.\d s\)$", line) for line in outcome.out.splitlines())
    assert "new study" in outcome.out
    plain = json.loads(command("check", spec, "--json").out)
    # Search: baseline 500, three proposals at 250, one promoted to 500. Confirm: 3 + 2 times 250.
    assert plain["images"] == 500 + 3 * 250 + 250 + 5 * 250
    assert sorted(tmp_path.rglob("*")) == before


def test_env_names_versions_and_threads(command: Command) -> None:
    import torch

    plain = json.loads(command("env", "--json").out)
    assert plain["packages"]["torch"] == torch.__version__.partition("+")[0] or plain["packages"][
        "torch"
    ] == str(torch.__version__)
    assert plain["threads"] == torch.get_num_threads()
    assert f"skiptune: {__version__}" in command("env").out.splitlines()


# A study from its beginning to its end


def test_a_study_is_tuned_read_exported_shown_and_confirmed(
    command: Command, spec: Path, tmp_path: Path
) -> None:
    everybody = ("-s", "search.promote=1")
    tuned = command("tune", spec, "-o", "results", *everybody)
    assert tuned.code == 0, tuned.err
    assert "\x1b" not in tuned.out + tuned.err
    assert max(map(len, tuned.out.splitlines())) <= 80
    assert re.search(r"^baseline +\S+ \[\S+, \S+\] +\d+ +250$", tuned.out, flags=re.MULTILINE)
    assert re.search(r"^tuned +\S+ \[\S+, \S+\] +[+-]\S+ \[", tuned.out, flags=re.MULTILINE)
    assert re.search(r"^(The tuned schedule is better|No significant gain): ", tuned.out, re.M)
    assert len(re.findall(r"^\d+x\d+_block\d ", tuned.out, flags=re.MULTILINE)) == 4
    assert len(re.findall(r"^\[I [^]]+\] proposal \d", tuned.err, flags=re.MULTILINE)) >= 3
    assert "Wrote results/tuned.json\nWrote results/before-after.png\nNext:" in tuned.err
    with Image.open(tmp_path / "results" / "before-after.png") as picture:
        assert picture.width > 12 * 16

    # A finished study shows the same again, and samples nothing.
    database = open_database("sqlite:///skiptune.db")
    study = ledger.require_study(database, "tiny")
    spent = ledger.spending(database, study.id).images
    again = command("tune", spec, "-o", "results", "-q")
    assert again.code == 0, again.err
    assert again.err == ""
    assert again.out == tuned.out
    assert ledger.spending(database, study.id).images == spent

    plain = json.loads(command("tune", spec, "-o", "results", "--json", "-q").out)
    assert plain["images"] == spent
    assert plain["written"] == ["results/tuned.json", "results/before-after.png"]

    document = json.loads((tmp_path / "results" / "tuned.json").read_text())
    assert document["verdict"]["verdict"] == plain["verdict"]
    assert document["network"]["name"] == "tiny.safetensors"
    assert document["tuned"]["difference"] == plain["winner"]["difference"]

    status = json.loads(command("status", "tiny", "--json").out)
    assert (status["evaluations"], status["budget"], status["states"]) == (3, 3, {"scored": 3})
    assert status["spending"]["images"] == spent
    assert [c["verdict"] for c in status["confirms"]] == [plain["verdict"]]
    assert status["confirms"][0]["gain"] == pytest.approx(plain["gain"])
    text = command("status", "tiny").out
    assert f"{spent:,} images" in text
    assert "3 of 3 (3 scored)" in text
    assert command("status").out.splitlines()[2].split()[:2] == ["tiny", "3/3"]

    best = json.loads(command("best", "tiny", "--top", "5", "--json").out)["schedules"]
    assert len(best) == 3
    assert best[0]["measured"]["images"] == 500
    won = plain["verdict"] == "win"
    assert best[0]["confirmed"] == won or best[1]["confirmed"] == won
    text = command("best", "tiny", "--top", "2").out
    assert text.count("change from 1") == 2
    assert "not confirmed" in text

    exported = command("export", "tiny", "-o", "again.json")
    assert exported.code == 0, exported.err
    written = json.loads((tmp_path / "again.json").read_text())
    document["provenance"].pop("created"), written["provenance"].pop("created")
    assert written == document
    assert command("export", "tiny", "-o", "again.json").code == 2

    network = spec.parent / "tiny.safetensors"
    shown = command(
        "sample", "again.json", "--seeds", "0-2,7", "--compare", "--checkpoint", network
    )
    assert shown.code == 0, shown.err
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (12 + 4 * 18 - 2, 12 + 2 * (16 + 2 + 18) - 2)
    plain = json.loads(
        command("sample", "again.json", "--checkpoint", network, "-o", "b.png", "--json").out
    )
    assert plain == {"written": "b.png", "seeds": list(range(16)), "compare": False}

    confirmed = json.loads(command("confirm", "tiny", "--json", "-q").out)
    assert confirmed["confirm"] == 2
    assert confirmed["alpha"] == 0.05 / 4
    assert confirmed["seeds"] == [2_200_000, 2_250_000]
    database.close()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
@pytest.mark.parametrize(
    ("grace", "left"),
    [(600.0, {"done": 2}), (0.0, {"done": 1, "open": 1})],
    ids=["time to finish the chunk", "no time"],
)
def test_a_signal_ends_it_in_order_and_says_how_to_go_on(
    command: Command,
    spec: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
    grace: float,
    left: dict[str, int],
) -> None:
    real, made = images.sample, []

    def interrupted(*arguments: Any, **named: Any) -> Iterator[Any]:
        for batch in real(*arguments, **named):
            made.append(batch)
            if len(made) == 3:  # in the middle of the second chunk
                os.kill(os.getpid(), number)
            yield batch

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
    handlers = [signal.getsignal(n) for n in signals]
    monkeypatch.setattr(chunks, "sample", interrupted)
    monkeypatch.setattr(stopping, "GRACE", grace)
    outcome = command("tune", spec)
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.splitlines()[-1] == (
        f"Stopped. Go on with: skiptune tune {shlex.quote(str(spec))}"
    )
    assert "Traceback" not in outcome.err
    assert [signal.getsignal(n) for n in signals] == handlers
    with open_database("sqlite:///skiptune.db") as database:
        progress = ledger.progress(database, ledger.require_study(database, "tiny").id)
    assert dict(progress.chunks) == left
    monkeypatch.setattr(chunks, "sample", real)
    assert command("tune", spec, "-q").code == 0


def test_a_second_signal_ends_it_at_once(
    command: Command, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **named: Any) -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one did not end it")

    monkeypatch.setattr(chunks, "sample", interrupted)
    outcome = command("tune", spec, "-q")
    assert outcome.code == 130
    assert "Stopped. Go on with" in outcome.err
    with open_database("sqlite:///skiptune.db") as database:
        progress = ledger.progress(database, ledger.require_study(database, "tiny").id)
    assert dict(progress.chunks) == {"open": 2}


def test_results_of_another_study_are_not_replaced(
    command: Command, spec: Path, tmp_path: Path
) -> None:
    (tmp_path / "tuned.json").write_text("{}")
    outcome = command("tune", spec)
    assert outcome.code == 2
    assert "a file that is no tuned.json" in outcome.err
    assert not (tmp_path / "skiptune.db").exists()
    assert command("tune", spec, "--force", "-q").code == 0
    outcome = command("tune", spec, "-s", "study=other")
    assert outcome.code == 2
    assert "the results of study tiny" in outcome.err


def test_nothing_to_export_before_a_confirm(
    command: Command, spec: Path, tiny_study: ModuleType, tmp_path: Path
) -> None:
    from skiptune.search.study import open_study

    open_study(tiny_study.spec(spec.parent), storage="sqlite:///skiptune.db").database.close()
    outcome = command("export", "tiny")
    assert outcome.code == 2
    assert "a finished confirm" in outcome.err
    assert not (tmp_path / "tuned.json").exists()
    outcome = command("best", "tiny")
    assert (outcome.code, outcome.out) == (0, "")
    assert "Nothing scored yet" in outcome.err
    assert "nothing scored yet" in command("status", "tiny").out
