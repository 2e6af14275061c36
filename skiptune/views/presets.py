"""The presets as a person reads them: how the network is sampled, and what others say of it."""

from __future__ import annotations

from rich.table import Table

from skiptune.sampling.setting import evaluations
from skiptune.search.published import PUBLISHED
from skiptune.search.spec import load_spec, presets
from skiptune.views.tables import listing

__all__ = ["preset_table"]


def preset_table() -> Table:
    """Return one row per preset.

    A published FID stands with the NFE it was published at, which may be other ones than the
    preset's.
    """
    rows = []
    for name in presets():
        setting = load_spec(name).setting.to_setting()
        found = PUBLISHED.get(name)
        sampled = f"{setting.solver} {setting.steps}"
        row = [name, sampled, str(evaluations(setting)), "", ""]
        if found is not None:
            row[3] = f"{found.baseline.fid} at {found.baseline.nfe}"
            if found.expected is not None:
                row[4] = f"{found.expected.fid} at {found.expected.nfe}"
        rows.append(row)
    columns = ("preset", "solver", "NFE", "published FID", "expected")
    return listing(columns, rows, right=("NFE",))
