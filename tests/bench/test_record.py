import json
import math
from pathlib import Path

import pytest

from bench.record import Bound, finish


@pytest.mark.parametrize(("value", "status"), [(1.05, 0), (1.06, 1), (math.nan, 1)])
def test_a_missed_bound_is_said_stored_and_becomes_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, status: int
) -> None:
    path = tmp_path / "results" / "x.json"
    bounds = [Bound("sure", 0.0, 1.0), Bound("overhead", value, 1.05)]

    assert finish(path, settings={"batch": 50}, bounds=bounds, raw=[1.0]) == status

    stored = json.loads(path.read_text(encoding="utf-8"))
    assert [bound["held"] for bound in stored["bounds"]] == [True, status == 0]
    assert stored["raw"] == [1.0]
    assert stored["machine"]["threads"] >= 1
    missed = capsys.readouterr().err
    assert ("overhead" in missed and "MISSED" in missed) == (status == 1)
