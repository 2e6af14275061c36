"""What every test shares: the device, one thread count, networks, a study, a fresh database."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests import browsers
from tests.command_line import Outcome
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from torch import nn

    from skiptune.sampling.networks import EDMPrecond

__all__ = ["postgres_server"]

TINY_STUDY = Path(__file__).parent / "search" / "tiny_study.py"

# A spinning thread pool makes two busy torch processes on two cores run many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="torch device of the tests, e.g. cuda")


def pytest_configure(config: pytest.Config) -> None:
    absent = browsers.missing()
    if absent and browsers.is_wanted():
        raise pytest.UsageError(
            f"{browsers.VARIABLE} is set, and there is no {' and no '.join(absent)}:"
            " apt-get install chromium chromium-driver"
        )


def pytest_report_header(config: pytest.Config) -> str:
    return browsers.header(browsers.missing())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the folder that needs a browser out where there is none."""
    inside = collection_path.is_relative_to(browsers.FOLDER)
    return True if inside and browsers.missing() else None


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The torch device on which a test runs its networks."""
    return str(request.config.getoption("--device"))


@pytest.fixture
def unprivileged(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], AbstractContextManager[None]]:
    """Run a block without root's right to read and write everywhere; others never had it.

    Inside `tmp_path` the permissions are the test's; the folders above it, which pytest makes for
    its user alone, are opened: one of the run, one of this process where there are several, one
    of all runs.
    """

    @contextmanager
    def block() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        base = tmp_path_factory.getbasetemp()
        for above in (tmp_path, base, *base.parents):
            if above == Path(tempfile.gettempdir()):
                break
            above.chmod(above.stat().st_mode | 0o055)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return block


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """The URL of a SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'skiptune.db'}"


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    """What `tiny_network` is built from: 8x8 images, 2 resolutions, 3 classes, 4 skips."""
    return {
        "precond": "edm",
        "sigma_data": 0.5,
        "img_resolution": 8,
        "img_channels": 1,
        "label_dim": 3,
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
        "dropout": 0.0,
    }


@pytest.fixture
def mixed_config(tiny_config: dict[str, Any]) -> dict[str, Any]:
    """What `mixed_network` is built from: 128 + 64 channels in 32 groups of 6."""
    return {**tiny_config, "model_channels": 32, "channel_mult": [2, 4]}


@pytest.fixture
def tiny_network(tiny_config: dict[str, Any], device: str) -> EDMPrecond:
    """A network of under 50,000 random weights in which every path matters."""
    return _random_network(tiny_config, device)


@pytest.fixture
def mixed_network(mixed_config: dict[str, Any], device: str) -> EDMPrecond:
    """A wider network in which a normalisation group holds main path and skip together."""
    return _random_network(mixed_config, device)


@pytest.fixture
def write_checkpoint(tiny_config: dict[str, Any]) -> Callable[..., Path]:
    """A function (network, path, config=tiny_config) that writes a checkpoint, and its path."""

    def write(network: nn.Module, path: Path, config: Mapping[str, Any] = tiny_config) -> Path:
        from safetensors.torch import save_file

        tensors = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
        save_file(tensors, path, metadata={"skiptune.network": json.dumps(dict(config))})
        return path

    return write


@pytest.fixture
def made_up_folder(
    tmp_path: Path,
    tiny_study: ModuleType,
    tiny_network: EDMPrecond,
    write_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with the files of the tiny study, whose images are made up from here on."""
    from tests.search import made_up

    folder = tmp_path / "study"
    folder.mkdir()
    write_checkpoint(tiny_network, folder / "tiny.safetensors")
    made_up.write_reference(folder, tiny_study)
    made_up.replace(monkeypatch.setattr)
    return folder


@pytest.fixture(scope="session")
def tiny_study() -> ModuleType:
    """The module `tiny_study`, loaded once: its extractor can be registered only once."""
    name = "tests_tiny_study"
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, TINY_STUDY)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        found.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def study_folder(
    tmp_path: Path,
    tiny_study: ModuleType,
    tiny_network: nn.Module,
    write_checkpoint: Callable[..., Path],
) -> Path:
    """A folder with everything the tiny study needs, and no database yet."""
    folder = tmp_path / "study"
    folder.mkdir()
    checkpoint = write_checkpoint(tiny_network, folder / "tiny.safetensors")
    tiny_study.prepare(folder, checkpoint)
    return folder


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """A function that runs a command line in this process, in a fresh folder."""
    from skiptune.cli import main

    monkeypatch.chdir(tmp_path)
    for name in ("SKIPTUNE_STORAGE", "SKIPTUNE_NO_PROGRESS", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str | Path) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)

    return run


def _random_network(config: Mapping[str, Any], device: str) -> EDMPrecond:
    # Imported here, because most tests of other rooms need no torch.
    import torch

    from skiptune.sampling.networks import build

    network = build(config)
    generator = torch.Generator().manual_seed(20240219)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # New networks end their branches almost at zero; every path shall matter here.
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + float("norm" in name and "weight" in name))
    return network.to(device).eval().requires_grad_(False)
