"""The section of a study's network: options of its file, told before anything is downloaded."""

from __future__ import annotations

import pytest

from skiptune.errors import SpecError
from skiptune.search.spec import StudySpec, load_spec


def test_options_of_a_network_are_read_before_its_file_is_there() -> None:
    own = {"family": "u-vit", "process": "vpsde", "img_size": 8, "depth": 8}
    address = "network.pickle_url=https://a.org/net.pt"
    given = f"network.options={own}"
    spec = load_spec("fashion", overrides=[address, given])
    assert spec.network.options == own
    assert StudySpec.from_json(spec.to_json()) == spec
    # The converted file's hash is the network's identity.
    assert spec.meaning() == load_spec("fashion").meaning()
    for overrides, reason in (
        ([given], "null where `pickle_url` brings no file"),
        ([address, "network.options={family: v-net}"], "family 'v-net', none of guided-diffusion"),
        ([address, "network.options={family: u-vit, img_size: 8}"], "no 'process'"),
        ([address, f"network.options={own | {'colour': 1}}"], "unknown: colour"),
    ):
        with pytest.raises(SpecError, match=r"network\.options") as caught:
            load_spec("fashion", overrides=overrides)
        assert reason in str(caught.value)
