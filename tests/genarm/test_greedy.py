"""Greedy decoding is, token for token, the plain loop over separate forward passes that sums log-softmaxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    FAMILIES,
    VOCAB,
    left_padded,
    make_model,
    plain_greedy,
    random_prompts,
    right_padded,
    save_adapter,
    with_adapter,
)

from genarm import GuidedDecoder

STEPS = 10
RAGGED = [5, 13, 1, 9, 17]


def reward_models(kind: str, family: str, base: Any, count: int, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """``count`` reward models as the library takes them, and as transformers and peft run them."""
    given: dict[str, Any] = {}
    plain = []
    for index in range(count):
        if kind == "lora":
            path = save_adapter(base, family, folder / f"adapter_{index}", seed=10 + index)
            given[f"rm_{index}"] = str(path)
            plain.append(with_adapter(base, path))
        else:  # full models, of another width and depth
            model = make_model(family, seed=20 + index, hidden=16 * (index + 1), layers=4, tie=index % 2 == 1)
            given[f"rm_{index}"] = model
            plain.append(model)
    return given, plain


def assert_greedy_equals_plain_loop(
    decoder: GuidedDecoder, models: list[Any], weights: list[float], prompts: list[torch.Tensor], call: Any
) -> None:
    named = dict(zip(decoder.reward_names, weights[1:], strict=True))
    out = decoder.generate(*call, weights=named, temperature=0.0, max_new_tokens=STEPS)
    compared = 0
    for row, prompt in enumerate(prompts):
        expected = plain_greedy(models, weights, prompt, STEPS)
        assert out.tokens[row].tolist()[: len(expected)] == expected
        compared += len(expected)
        if expected and expected[-1] == 2:
            assert out.finish_reasons[row] == "eos"
    assert compared > 0.8 * sum(map(len, out.tokens)), "near ties everywhere: choose other seeds"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("count", "kind"), [(0, "lora"), (1, "lora"), (3, "lora"), (1, "full"), (3, "full")])
@pytest.mark.parametrize("padding", ["alone", "left", "right", "list"])
def test_greedy_equals_a_plain_loop_over_transformers(
    family: str, count: int, kind: str, padding: str, tmp_path: Path
) -> None:
    base = make_model(family, seed=1, tie=padding in {"left", "list"})
    given, plain = reward_models(kind, family, base, count, tmp_path)
    prompts = random_prompts([7] if padding == "alone" else RAGGED, seed=count)
    calls = {
        "alone": (prompts[0][None],),
        "left": left_padded(prompts),
        "right": right_padded(prompts),
        "list": (prompts,),
    }
    weights = [1.0, 0.8, -0.5, 1.5][: count + 1]
    decoder = GuidedDecoder(base, given)
    assert_greedy_equals_plain_loop(decoder, [base, *plain], weights, prompts, calls[padding])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [VOCAB + 7, 128])
def test_a_reward_model_with_a_padded_vocabulary_guides_the_same(family: str, padded: int) -> None:
    base = make_model(family, seed=1)
    reward = make_model(family, seed=5, hidden=16, vocab=padded)
    prompts = random_prompts(RAGGED, seed=3)
    # the plain loop normalises over the shared ids only, which shifts all of a row alike
    decoder = GuidedDecoder(base, [reward])
    assert_greedy_equals_plain_loop(decoder, [base, reward], [1.0, 1.2], prompts, (prompts,))


def test_a_padded_base_never_emits_its_padding() -> None:
    base = make_model("llama", seed=1, vocab=104)
    with torch.no_grad():
        base.lm_head.weight[VOCAB:] = 50.0 * base.lm_head.weight[5].sign()
    out = GuidedDecoder(base, [make_model("llama", seed=2)]).generate(random_prompts([5]), max_new_tokens=20, seed=3)
    assert int(out.tokens[0].max()) < VOCAB


def test_reward_models_of_another_family_guide_too() -> None:
    base, reward = make_model("llama", seed=1), make_model("gpt2", seed=2)
    prompts = random_prompts(RAGGED, seed=4)
    assert_greedy_equals_plain_loop(GuidedDecoder(base, [reward]), [base, reward], [1.0, 0.7], prompts, (prompts,))


@pytest.mark.parametrize("max_batch_size", [1, 2, 8])
def test_chunks_of_a_batch_do_not_change_it(max_batch_size: int) -> None:
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2)
    prompts = random_prompts(RAGGED, seed=5)
    decoder = GuidedDecoder(base, [reward], max_batch_size=max_batch_size)
    assert_greedy_equals_plain_loop(decoder, [base, reward], [1.0, 0.7], prompts, (prompts,))
