from __future__ import annotations

import subprocess
import sys

import pytest

from skiptune import objectives


def test_every_public_name_is_there() -> None:
    for name in objectives.__all__:
        assert getattr(objectives, name) is not None
    assert dir(objectives) == sorted(objectives.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fid'"):
        objectives.fid  # noqa: B018


def test_scores_of_stored_arrays_need_no_torch() -> None:
    code = (
        "import sys; from skiptune.objectives import corrected, load_reference, metric_name;"
        "from skiptune.objectives.names import EXTRACTORS;"
        "import skiptune.objectives.describe;"
        "r = load_reference('fashion-train'); assert r.dim == 64;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
