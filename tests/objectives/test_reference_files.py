"""Foreign references: each format is read, its cautions are told, and no pickle acts."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.extractors import Extractor
from skiptune.objectives.names import DINOV2, DINOV2_SHA256, INCEPTION, INCEPTION_SHA256
from skiptune.objectives.reference import load_reference, save_reference
from skiptune.objectives.reference_files import (
    foreign_arrays,
    foreign_pickle,
    is_pickle,
    stored_arrays,
)

INCEPTION_DIM, DINOV2_DIM = 2048, 1024


def fake(name: str, dim: int, sha256: str) -> Extractor:
    """An extractor of which only the identity is asked for."""
    return Extractor(name, dim, sha256, "of ours", torch.nn.Linear(1, 1))


inception = fake(INCEPTION, INCEPTION_DIM, INCEPTION_SHA256)
dinov2 = fake(DINOV2, DINOV2_DIM, DINOV2_SHA256)


def moments(dim: int, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """A mean and a covariance that is quick to check: diagonal."""
    rng = np.random.default_rng(seed)
    return {"mu": rng.random(dim), "sigma": np.diag(rng.random(dim) + 0.1)}


@pytest.fixture(scope="module")
def edm2() -> dict[str, Any]:
    """The content of a file of EDM2's `dataset-refs`."""
    return {
        "num_images": 50_000,
        "fid": moments(INCEPTION_DIM, 1),
        "fd_dinov2": moments(DINOV2_DIM, 2),
    }


def pickled(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


# npz


@pytest.mark.parametrize(
    ("name", "extra", "source", "caution"),
    [
        ("cifar10-32x32.npz", {}, "EDM", "resized is not recorded"),
        ("fid_stats_cifar10_train.npz", {}, "pytorch-fid", "must not be compared"),
        (
            "VIRTUAL_imagenet64_labeled.npz",
            {"mu_s": np.zeros(7), "sigma_s": np.eye(7), "arr_0": np.zeros((2, 4, 4, 3), np.uint8)},
            "ADM",
            "only a part of it",
        ),
        ("ffhq_legacy_tensorflow_train_256.npz", {}, "clean-fid", "legacy_tensorflow"),
        ("FFHQ_256_Legacy_TF_FID_0.npz", {}, "clean-fid", "legacy_tensorflow"),
    ],
)
def test_plain_statistics_are_inception_s_with_cautions(
    tmp_path: Path, name: str, extra: dict[str, Any], source: str, caution: str
) -> None:
    stats = moments(4)
    np.savez(tmp_path / name, allow_pickle=False, **stats, **extra)
    names, arrays = stored_arrays(tmp_path / name, hint="")
    assert set(arrays) == {"mu", "sigma"}  # ten thousand images stay where they are
    found = foreign_arrays(tmp_path / name, arrays, names)
    assert (found.extractor, found.sha256, found.dim) == (INCEPTION, INCEPTION_SHA256, 2048)
    assert (found.images, found.other_features) == (None, "")
    np.testing.assert_array_equal(found.mean, stats["mu"])
    np.testing.assert_array_equal(found.covariance, stats["sigma"])
    assert source in found.source
    assert any(caution in text for text in found.cautions)
    assert any("number of images" in text for text in found.cautions)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("cifar10_clean_train_32.npz", "mode clean"),
        ("FFHQ_256_CleanFID_0.npz", "mode clean"),
        ("horse2zebra_cleanfid_test.npz", "mode clean"),
        ("ffhq_legacy_pytorch_train_256.npz", "mode legacy_pytorch"),
        ("horse2zebra_LegacyPyt_fid_test.npz", "mode legacy_pytorch"),
    ],
)
def test_features_of_another_resize_are_refused(tmp_path: Path, name: str, mode: str) -> None:
    np.savez(tmp_path / name, allow_pickle=False, **moments(INCEPTION_DIM))
    with pytest.raises(ObjectiveError, match=mode) as caught:
        load_reference(tmp_path / name, extractor=inception)
    assert "skiptune ref" in caught.value.hint
    names, arrays = stored_arrays(tmp_path / name, hint="")
    cautions = foreign_arrays(tmp_path / name, arrays, names).cautions
    assert any(mode in text for text in cautions)


@pytest.mark.parametrize("content", [b'{"format": 1}', b"", b"\x80\x04]."])
def test_nobody_is_told_how_to_load_pickles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ObjectiveError, match="an npz file") as caught:
        stored_arrays(tmp_path / "a.npz", hint="")
    assert "no file of numpy's" in str(caught.value)
    assert "allow_pickle" not in str(caught.value)


def test_cautions_survive_a_copy_in_our_format(tmp_path: Path) -> None:
    np.savez(tmp_path / "edm.npz", allow_pickle=False, **moments(INCEPTION_DIM))
    foreign = load_reference(tmp_path / "edm.npz")
    save_reference(tmp_path / "ours.npz", foreign)
    ours = load_reference(tmp_path / "ours.npz", extractor=inception)
    assert ours.cautions == foreign.cautions != ()
    assert ours.digest == foreign.digest


# EDM2's pickles


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_are_read_as_they_were_written(
    tmp_path: Path, edm2: dict[str, Any], protocol: int
) -> None:
    path = pickled(tmp_path / "img512.pkl", edm2, protocol)
    for name, dim, key in (
        (INCEPTION, INCEPTION_DIM, "fid"),
        (DINOV2, DINOV2_DIM, "fd_dinov2"),
    ):
        found = foreign_pickle(path, name)
        assert (found.extractor, found.dim, found.images) == (name, dim, 50_000)
        np.testing.assert_array_equal(found.mean, edm2[key]["mu"])
        np.testing.assert_array_equal(found.covariance, edm2[key]["sigma"])


def test_the_extractor_decides_what_is_read_of_a_pickle(
    tmp_path: Path, edm2: dict[str, Any]
) -> None:
    path = pickled(tmp_path / "img512.pkl", edm2)
    reference = load_reference(path, extractor=dinov2)
    np.testing.assert_array_equal(reference.mean, edm2["fd_dinov2"]["mu"])
    assert (reference.extractor, reference.sha256) == (dinov2.name, dinov2.sha256)
    assert reference.require_images() == 50_000
    assert any("weights" in text for text in reference.cautions)
    with pytest.raises(ObjectiveError, match=r"fid \(inception\), fd_dinov2 \(dinov2\)"):
        load_reference(path)
    with pytest.raises(ObjectiveError, match="weights sha256"):
        load_reference(path, extractor=fake(DINOV2, DINOV2_DIM, "0" * 64))
    with pytest.raises(ObjectiveError, match="of fashion-cnn"):
        load_reference(path, extractor=fake("fashion-cnn", 64, "f" * 64))


def test_names_of_numpy_1_are_known(tmp_path: Path) -> None:
    stats = moments(4)
    path = tmp_path / "old.pkl"
    # Protocol 3 writes names without their lengths.
    new = pickle.dumps({"fid": stats}, protocol=3)
    assert b"numpy._core.multiarray" in new
    path.write_bytes(new.replace(b"numpy._core.", b"numpy.core."))
    found = foreign_pickle(path, INCEPTION)
    np.testing.assert_array_equal(found.mean, stats["mu"])
    np.testing.assert_array_equal(found.covariance, stats["sigma"])
    assert found.images is None
    assert any("number of images" in text for text in found.cautions)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_buffers_of_protocol_5_are_known_by_both_names(tmp_path: Path, core: str) -> None:
    kind = pickle.dumps(np.dtype("<f8"), protocol=3)[2:-1]

    def buffer(values: list[float]) -> bytes:
        data = np.array(values, dtype="<f8").tobytes()
        return (
            f"c{core}.numeric\n_frombuffer\n".encode()
            + b"(C" + bytes([len(data)]) + data + kind + b"K" + bytes([len(values)]) + b"\x85"
            + b"X\x01\x00\x00\x00CtR"
        )  # fmt: skip

    path = tmp_path / "five.pkl"
    path.write_bytes(
        b"\x80\x05}(U\x03fid}(U\x02mu" + buffer([1, 2]) + b"U\x05sigma" + buffer([3]) + b"uu."
    )
    found = foreign_pickle(path, None)
    np.testing.assert_array_equal(found.mean, [1, 2])
    np.testing.assert_array_equal(found.covariance, [3])


def test_column_order_float32_and_numpy_numbers_are_read(tmp_path: Path) -> None:
    stats = moments(4)
    stats["sigma"][0, 1] = stats["sigma"][1, 0] = 0.01
    content = {
        "num_images": np.int64(1234),
        "fid": {
            "mu": stats["mu"].astype(np.float32),
            "sigma": np.asfortranarray(stats["sigma"]).astype(">f8"),
        },
    }
    found = foreign_pickle(pickled(tmp_path / "a.pkl", content), None)
    assert found.images == 1234
    np.testing.assert_array_equal(found.mean, stats["mu"].astype(np.float32))
    np.testing.assert_array_equal(found.covariance, stats["sigma"])


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def hostile(folder: Path) -> dict[str, bytes]:
    """Pickles that would act, and the name that each refusal must tell."""
    mark = str(folder / "mark")
    stats = moments(4)
    by_opcodes = b"cos\nsystem\n(S'touch " + mark.encode() + b"'\ntR."
    return {
        "posix.system": pickle.dumps({"fid": Calls(os.system, f"touch {mark}")}),
        "os.system": by_opcodes,
        "builtins.eval": pickle.dumps(
            {"fid": stats, "x": Calls(eval, f"open({mark!r}, 'w')")}, protocol=2
        ).replace(b"__builtin__", b"builtins"),
        "builtins.getattr": pickle.dumps({"fid": stats, "x": Calls(getattr, "a", "upper")}),
        "numpy.load": b"\x80\x02cnumpy\nload\n(U\x01xtR.",
        "numpy.testing.rundocs": b"\x80\x02cnumpy.testing\nrundocs\n)R.",
        "a reference to something outside": b"\x80\x02U\x01xQ.",
        "torch.storage._load_from_bytes": b"\x80\x02ctorch.storage\n_load_from_bytes\n)R.",
    }


def test_no_pickle_acts_and_the_refusal_names_what_it_would_run(tmp_path: Path) -> None:
    for name, data in hostile(tmp_path).items():
        path = tmp_path / "hostile.pkl"
        path.write_bytes(data)
        with pytest.raises(ObjectiveError, match="would run") as caught:
            load_reference(path)
        assert name in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.pkl"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x04N.",
        b"\x80\x04]\x94.",
        pickle.dumps({"fid": {"mu": 1.0, "sigma": 2.0}}),
        pickle.dumps({"fid": {"mu": np.zeros(3)}}),
        pickle.dumps({"fid": np.zeros(3)}),
        pickle.dumps({"fid": [np.zeros(3)]}),
        pickle.dumps({"fid": {"mu": np.array([None]), "sigma": np.eye(1)}}),
        pickle.dumps({"fid": {"mu": np.array(["a"]), "sigma": np.eye(1)}}),
        pickle.dumps({"images": 3}),
        pickle.dumps({"fid": moments(4)}),
        # What builds the classes that stand for numpy's, with senseless arguments and state.
        b"\x80\x02}U\x03fidcnumpy\nndarray\nNs.",
        b"\x80\x02}U\x03fidcnumpy\nndarray\n)\x81s.",
        b"\x80\x02}U\x03fidcnumpy\nndarray\n)RNbs.",
        b"\x80\x02}U\x03fidcnumpy\ndtype\n}U\x01a1sbs.",
        b"\x80\x02}U\x03fidcnumpy._core.numeric\n_frombuffer\n(U\x01aNNtRs.",
        b"\x80\x02}U\x03fid" + b"}U\x01a" * 50 + b"N" + b"s" * 51 + b".",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    ],
)
def test_damaged_and_senseless_pickles_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(data)
    with pytest.raises(ObjectiveError) as caught:
        load_reference(path)
    assert caught.value.hint


def test_a_cut_off_pickle_is_refused_at_every_length(tmp_path: Path, edm2: dict[str, Any]) -> None:
    small = pickle.dumps({"fid": moments(4), "num_images": 7})
    path = tmp_path / "cut.pkl"
    for length in range(len(small)):
        path.write_bytes(small[:length])
        with pytest.raises(ObjectiveError):
            load_reference(path)


def test_a_pickle_is_known_by_its_content_too(tmp_path: Path) -> None:
    for protocol in range(2, 6):
        assert is_pickle(pickled(tmp_path / "img512", {}, protocol))
    np.savez(tmp_path / "stats", mu=np.zeros(3))
    assert not is_pickle(tmp_path / "stats.npz")
