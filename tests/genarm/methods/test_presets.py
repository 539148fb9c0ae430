"""Methods that are the guided formula with other weights, each against its equation over plain forward passes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, plain_greedy, random_prompts, save_adapter, with_adapter
from method_cases import next_logits
from torch import Tensor

from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError, RewardNameError

STEPS = 6


def peaked() -> Any:
    """A model that finds many tokens implausible."""
    model = make_model("llama")
    model.lm_head.weight.data.mul_(8.0)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[GuidedDecoder, dict[str, Any]]:
    """A decoder of a base and two adapters, and the three as plain models."""
    folder: Path = tmp_path_factory.mktemp("presets")
    base = peaked()
    paths = {name: save_adapter(base, "llama", folder / name, seed) for seed, name in enumerate(("one", "two"), 1)}
    plain = {name: with_adapter(base, path) for name, path in paths.items()}
    decoder = GuidedDecoder(base, {name: str(path) for name, path in paths.items()})
    return decoder, {"base": peaked(), **plain}


# name -> its settings, and the weights of its equation
EQUATIONS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "genarm": ({"reward": "two", "weight": 0.7}, {"base": 1.0, "two": 0.7}),
    "multi_objective": ({"weights": {"one": 0.5, "two": 1.5}, "beta": 2.0}, {"base": 1.0, "one": 0.25, "two": 0.75}),
    "proxy_tuning": ({"expert": "one", "anti_expert": "two"}, {"base": 1.0, "one": 1.0, "two": -1.0}),
    "eft": ({"tuned": {"one": 0.8}, "reference": "two"}, {"base": 1.0, "one": 0.8, "two": -0.8}),
    "dera": ({"aligned": "one", "strength": 1.5}, {"base": -0.5, "one": 1.5}),
    "mod": ({"policies": {"two": 0.4, "one": 0.6}}, {"two": 0.4, "one": 0.6}),
    "dpo": ({"policy": "one"}, {"one": 1.0}),
}


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_a_preset_is_its_equation(name: str, models: tuple[GuidedDecoder, dict[str, Any]]) -> None:
    decoder, plain = models
    settings, weights = EQUATIONS[name]
    prompts = random_prompts([4, 7], seed=5)
    out = methods[name].generate(decoder, prompts, **settings, temperature=0.0, max_new_tokens=STEPS)
    chosen = [plain[model] for model in weights]
    for prompt, tokens in zip(prompts, out.tokens, strict=True):
        expected = plain_greedy(chosen, list(weights.values()), prompt, STEPS)
        assert expected and tokens.tolist()[: len(expected)] == expected
    assert set(out.stats.forwarded) == set(weights)


def filtered(expert: Any, other: Tensor, text: Tensor, min_p: float, top_p: float) -> Tensor:
    """[V] scores of the expert's log-probabilities plus ``other`` over what filters leave of the expert."""
    log_probs = next_logits(expert, text.tolist()).double().log_softmax(0)
    kept = log_probs >= math.log(min_p) + log_probs.max() if min_p else torch.ones_like(log_probs, dtype=torch.bool)
    values, order = log_probs.sort(descending=True)
    inside = values.exp().cumsum(0) - values.exp() < top_p
    kept &= torch.zeros_like(kept).scatter(0, order, inside)
    return (log_probs + other).masked_fill(~kept, -math.inf)


@pytest.mark.parametrize(("name", "min_p", "top_p"), [("contrastive", 0.1, 1.0), ("dexperts", 0.0, 0.9)])
def test_a_preset_masks_what_the_base_finds_implausible(
    name: str, min_p: float, top_p: float, models: tuple[GuidedDecoder, dict[str, Any]]
) -> None:
    decoder, plain = models
    settings: dict[str, Any] = {"amateur": "two", "strength": 3.0}
    if name == "dexperts":
        settings = {"expert": "one", "anti_expert": "two"}
    prompt = random_prompts([5], seed=8)[0]
    out = methods[name].generate(decoder, [prompt], **settings, temperature=0.0, max_new_tokens=STEPS, eos_token_id=[])
    text, is_masked = prompt, False
    for token in out.tokens[0].tolist():
        one, two = (next_logits(plain[model], text.tolist()).double().log_softmax(0) for model in ("one", "two"))
        other = -3.0 * two if name == "contrastive" else 2.0 * (one - two)
        scores = filtered(plain["base"], other, text, min_p, top_p)
        assert token == int(scores.argmax())
        is_masked |= int(filtered(plain["base"], other, text, 0.0, 2.0).argmax()) != token
        text = torch.cat([text, torch.tensor([token])])
    assert is_masked  # else the mask could be left out


@pytest.mark.parametrize("negative", [None, [9, 4, 3]])
def test_classifier_free_guidance_is_the_base_twice(
    negative: list[int] | None, models: tuple[GuidedDecoder, dict[str, Any]]
) -> None:
    decoder, plain = models
    prompts = random_prompts([4, 7], seed=5)
    out = methods["cfg"].generate(
        decoder, prompts, gamma=2.0, negative_prompt=None if negative is None else [negative], temperature=0.0,
        max_new_tokens=STEPS, eos_token_id=[],
    )  # fmt: skip
    for prompt, tokens in zip(prompts, out.tokens, strict=True):
        own, other = prompt.tolist(), negative or prompt.tolist()[-1:]
        for place, token in enumerate(tokens.tolist()):
            new = tokens.tolist()[:place]
            scores = 2.0 * next_logits(plain["base"], own + new) - next_logits(plain["base"], other + new)
            assert token == int(scores.argmax())


def test_presets_refuse_what_they_set_themselves_and_models_that_are_not_there(
    models: tuple[GuidedDecoder, dict[str, Any]],
) -> None:
    decoder, _ = models
    with pytest.raises(InvalidArgumentError, match="proxy_tuning does not take 'weights'"):
        methods["proxy_tuning"].generate(decoder, [[5]], expert="one", anti_expert="two", weights={"one": 1.0})
    with pytest.raises(RewardNameError, match="'expert', which is not loaded"):
        methods["proxy_tuning"].generate(decoder, [[5]])
    with pytest.raises(RewardNameError, match="guides by one reward model, and the decoder has one, two"):
        methods["genarm"].generate(decoder, [[5]])
    with pytest.raises(RewardNameError, match="'one' twice"):
        decoder.only("one", "one")


@pytest.mark.parametrize("name", ["proxy_tuning", "dexperts", "eft"])
def test_a_model_is_not_taken_from_itself(name: str) -> None:
    own = {"tuned": "twin", "reference": "twin"} if name == "eft" else {"expert": "twin", "anti_expert": "twin"}
    decoder = GuidedDecoder(make_model("llama"), {"twin": make_model("llama", seed=1)})
    with pytest.raises(InvalidArgumentError, match="'twin' from itself"):
        methods[name].generate(decoder, random_prompts([3]), max_new_tokens=1, **own)
