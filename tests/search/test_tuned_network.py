"""The network in tuned.json: with a decoder, and as before without one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from skiptune.search.tuned_network import TunedDecoder, TunedNetwork, TunedPrompts

SHA = "0" * 64
DECODER = {
    "name": "vae",
    "sha256": SHA,
    "dtype": "float32",
    "latents": "edm2",
    "microbatch": 5,
    "identity": SHA,
}


def test_a_network_of_pixels_is_written_as_before() -> None:
    plain = {"name": "fashion", "sha256": SHA}
    assert TunedNetwork.model_validate(plain).model_dump(mode="json") == plain


def test_a_decoder_survives_json() -> None:
    network = TunedNetwork(name="net", sha256=SHA, decoder=TunedDecoder.model_validate(DECODER))
    plain = network.model_dump(mode="json")
    assert plain["decoder"] == DECODER
    assert TunedNetwork.model_validate(plain) == network


def test_prompts_survive_json() -> None:
    prompts = {"name": "prompts.txt", "sha256": SHA, "identity": SHA}
    network = TunedNetwork(name="net", sha256=SHA, prompts=TunedPrompts.model_validate(prompts))
    plain = network.model_dump(mode="json")
    assert plain == {"name": "net", "sha256": SHA, "prompts": prompts}
    assert TunedNetwork.model_validate(plain) == network
    with pytest.raises(ValidationError):
        TunedPrompts.model_validate(prompts | {"sha256": "abc"})


def test_every_wrong_value_of_a_decoder_is_refused() -> None:
    wrong = {"dtype": "float8", "latents": "sd", "microbatch": 0, "identity": "abc", "name": ""}
    with pytest.raises(ValidationError) as caught:
        TunedDecoder.model_validate(DECODER | wrong)
    assert {error["loc"][0] for error in caught.value.errors()} == set(wrong)
