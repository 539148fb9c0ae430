"""Tokens are drawn from the guided distribution itself: the first and the third, against enumeration.

The third token's distribution sums over all V² ways to the first two, so an error in the cache, the position ids or
the noise of later steps shows in it. The statistic also rejects distributions with slightly wrong weights.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chi_square import assert_drawn_from, assert_not_drawn_from
from families import make_model
from torch import Tensor

from genarm import GuidedDecoder

V = 13
DRAWS = 2000
PROMPT = torch.tensor([5, 9, 3, 7])
WEIGHTS = [1.0, 1.0, -0.5]


def tiny(seed: int, **shape: Any) -> Any:
    """A model whose probabilities span three orders of magnitude or so."""
    model = make_model("llama", seed=seed, vocab=V, **{"hidden": 16, "layers": 2, **shape})
    with torch.no_grad():
        model.lm_head.weight.mul_(6.0)
    return model


@pytest.fixture(scope="module")
def models() -> list[Any]:
    return [tiny(1), tiny(2, hidden=32), tiny(3)]


@pytest.fixture(scope="module")
def decoder(models: list[Any]) -> GuidedDecoder:
    return made(models)


def made(models: list[Any], engine: Any = "auto") -> GuidedDecoder:
    return GuidedDecoder(models[0], {"a": models[1], "b": models[2]}, max_batch_size=DRAWS, engine=engine)


def next_probs(
    models: list[Any], weights: list[float], prefixes: Tensor, temperature: float, keep: Any = None
) -> Tensor:
    """[N, V] float64 exp((1/T) Σ w_m log p_m), normalised, after each of the prefixes [N, t]."""
    scores = torch.zeros(len(prefixes), V, dtype=torch.float64)
    with torch.no_grad():
        for model, weight in zip(models, weights, strict=True):
            scores += weight * model(input_ids=prefixes).logits[:, -1].double().log_softmax(-1)
    probs = (scores / temperature).softmax(-1)
    if keep is not None:
        probs = torch.where(keep(probs), probs, 0.0)
    return probs / probs.sum(-1, keepdim=True)


def marginals(
    models: list[Any], weights: list[float], temperature: float = 1.0, prompt: Tensor = PROMPT, keep: Any = None
) -> tuple[Tensor, Tensor]:
    """[V] of the first token, and [V] of the third."""
    first = next_probs(models, weights, prompt[None], temperature, keep)[0]
    ones = torch.cat([prompt.expand(V, -1), torch.arange(V)[:, None]], dim=1)
    second = next_probs(models, weights, ones, temperature, keep)  # [a, b]
    twos = torch.cat([ones.repeat_interleave(V, 0), torch.arange(V).repeat(V)[:, None]], dim=1)
    third = next_probs(models, weights, twos, temperature, keep).view(V, V, V)  # [a, b, c]
    return first, torch.einsum("a,ab,abc->c", first, second, third)


def draws(decoder: GuidedDecoder, prompt: Tensor = PROMPT, count: int = DRAWS, **options: Any) -> Tensor:
    """[N, 3] tokens of N sequences, each with a row seed of its own."""
    options = {"eos_token_id": [], "max_new_tokens": 3, **options}
    out = decoder.generate(prompt.expand(count, -1), **options)
    return out.sequences[:, -3:]


def assert_first_and_third(tokens: Tensor, expected: tuple[Tensor, Tensor]) -> None:
    assert_drawn_from(tokens[:, 0], expected[0])
    assert_drawn_from(tokens[:, 2], expected[1])


@pytest.mark.parametrize(("engine", "temperature", "seed"), [("auto", 0.7, 2), ("hf", 1.3, 1)])
def test_tokens_have_the_guided_distribution_and_none_of_slightly_wrong_weights(
    models: list[Any], engine: str, temperature: float, seed: int
) -> None:
    tokens = draws(made(models, engine), weights={"a": 1.0, "b": -0.5}, temperature=temperature, seed=seed)
    assert_first_and_third(tokens, marginals(models, WEIGHTS, temperature))
    for wrong in ([1.0, 1.0, -0.3], [1.0, 0.8, -0.5], [1.2, 1.0, -0.5], [1.0, -0.5, 1.0]):
        if temperature < 1:  # sharp enough to tell
            with pytest.raises(AssertionError):
                assert_first_and_third(tokens, marginals(models, wrong, temperature))


def test_each_row_is_drawn_with_its_own_weights_beta_and_temperature(models: list[Any], decoder: GuidedDecoder) -> None:
    """Beta divides the reward weights and not the base's, which may be negative."""
    settings = [([0.6, 0.5, -0.25], 1.0), ([-0.5, 1.0, 0.5], 1.0), ([0.5, -1.0, 1.5], 2.0)]  # base, a, b; temperature
    rows = [settings[row % 3] for row in range(DRAWS)]
    tokens = draws(
        decoder, weights=[{"a": w[1] * 4.0, "b": w[2] * 4.0} for w, _ in rows], beta=[4.0] * DRAWS,
        base_weight=[w[0] for w, _ in rows], temperature=torch.tensor([t for _, t in rows]), seed=6,
    )  # fmt: skip
    for offset, (weights, temperature) in enumerate(settings):
        expected = marginals(models, weights, temperature)
        assert_first_and_third(tokens[offset::3], expected)
        assert_not_drawn_from(tokens[(offset + 1) % 3 :: 3, 0], expected[0])
    assert_not_drawn_from(tokens[0::3, 0], marginals(models, [0.15, 0.5, -0.25])[0])  # as if beta divided it


def kept(probs: Tensor) -> Tensor:
    """Top-k, then top-p and min-p, each of what the one before has left."""
    probs = torch.where(probs >= probs.sort(-1, descending=True).values[:, 7:8], probs, 0.0)
    ordered, ids = (probs / probs.sum(-1, keepdim=True)).sort(-1, descending=True)
    nucleus = torch.zeros_like(probs, dtype=torch.bool).scatter(-1, ids, ordered.cumsum(-1) - ordered < 0.9)
    probs = torch.where(nucleus, probs, 0.0)
    return probs >= 0.15 * probs.amax(-1, keepdim=True)


def test_filters_cut_the_tempered_distribution_and_the_bases_own_look_at_it_alone(
    decoder: GuidedDecoder, models: list[Any]
) -> None:
    common: dict[str, Any] = {"weights": {"a": 1.0, "b": -0.5}, "temperature": 1.5}
    expected = marginals(models, WEIGHTS, 1.5, keep=kept)
    assert int((expected[0] == 0).sum()) > 0, "the filter is to cut something"
    assert_first_and_third(draws(decoder, top_k=8, top_p=0.9, min_p=0.15, seed=7, **common), expected)
    base, whole = (next_probs(models[:n], WEIGHTS[:n], PROMPT[None], t)[0] for n, t in ((1, 1.0), (3, 1.5)))
    tokens = draws(decoder, base_min_p=0.3, seed=8, **common)[:, 0]
    assert_drawn_from(tokens, whole * (base >= 0.3 * base.max()))
    assert_not_drawn_from(tokens, whole)


@pytest.mark.parametrize("engine", ["auto", "hf"])
def test_left_padding_among_other_rows_does_not_change_the_distribution(models: list[Any], engine: str) -> None:
    """Half of the rows are long, so the others are padded."""
    long = torch.tensor([4, 8, 12, 5, 6, 7, 3, 9, 10])
    rows = [PROMPT if row % 2 else long for row in range(DRAWS)]
    out = made(models, engine).generate(rows, weights={"a": 1.0, "b": -0.5}, eos_token_id=[], max_new_tokens=3, seed=10)
    for offset, prompt in ((0, long), (1, PROMPT)):
        assert_first_and_third(out.sequences[offset::2, -3:], marginals(models, WEIGHTS, prompt=prompt))
