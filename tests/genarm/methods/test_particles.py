"""Particles as a method beside the others: what the decoder itself draws, with the presets' models too."""

from __future__ import annotations

from typing import Any

import pytest
from families import make_model, random_prompts
from method_cases import assert_same_rows, make_scorer

import genarm
from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError

OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "seed": 4, "top_k": 30}


def make_decoder() -> GuidedDecoder:
    rewards = {"tuned": make_model("llama", seed=9), "reference": make_model("llama", seed=11)}
    return GuidedDecoder(make_model("llama"), rewards, max_batch_size=6)


def test_the_method_is_the_decoders_own_particles() -> None:
    decoder, prompts, scorer = make_decoder(), random_prompts([4, 7]), make_scorer("llama", seed=7)
    settings: dict[str, Any] = {"particles": 5, "resample_below": 0.9, "resample_every": 2, "length_bonus": 0.3}
    settings |= {"terminal": scorer}
    out = methods["particles"].generate(decoder, prompts, **settings, **OPTIONS, weights={"tuned": 0.5})
    expected = decoder.generate(prompts, **settings, **OPTIONS, weights={"tuned": 0.5})
    assert_same_rows(out, [row.tolist() for row in expected.tokens])
    assert out.log_evidence is not None and out.log_evidence.tolist() == expected.log_evidence.tolist()
    plain = methods["particles"].generate(decoder, prompts, **OPTIONS)
    assert_same_rows(plain, [row.tolist() for row in decoder.generate(prompts, particles=16, **OPTIONS).tokens])


def test_presets_draw_whole_answers_from_their_own_product() -> None:
    decoder, prompts = make_decoder(), random_prompts([4, 7])
    out = methods["eft"].generate(decoder, prompts, particles=4, **OPTIONS)
    weights = {"tuned": 1.0, "reference": -1.0}
    expected = decoder.generate(prompts, weights=weights, particles=4, **OPTIONS)
    assert_same_rows(out, [row.tolist() for row in expected.tokens])
    assert out.log_evidence is not None and out.log_evidence.tolist() == pytest.approx(expected.log_evidence.tolist())


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("particles", {"streamer": object()}, "particles does not take 'streamer'"),
        ("particles", {"particles": 0}, "particles is 0"),
        ("best_of_n", {"particles": 4}, "best_of_n does not take 'particles'"),
        ("best_of_n", {"return_normalizers": True}, "best_of_n does not take 'return_normalizers'"),
        ("args", {"particles": 4}, "args does not take 'particles'"),
    ],
)
def test_what_a_method_would_not_heed_is_refused(name: str, settings: dict[str, Any], words: str) -> None:
    given = settings if name == "particles" else {"trajectory_rm": make_scorer("llama"), **settings}
    with pytest.raises(InvalidArgumentError, match=words):
        methods[name].generate(make_decoder(), random_prompts([4]), **given)


def test_importing_the_library_is_enough_to_reach_its_methods() -> None:
    assert genarm.__getattr__("methods") is methods and genarm.__getattr__("embedded").BASE.is_dir()
