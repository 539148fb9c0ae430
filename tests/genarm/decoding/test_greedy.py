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

STEPS = 6
RAGGED = [5, 13, 1, 17]
WEIGHTS = [0.8, -0.5]
KINDS = [(0, "lora"), (1, "lora"), (2, "lora"), (1, "full"), (2, "full")]
PADDINGS = ["alone", "left", "right", "list"]


def pairwise() -> list[tuple[Any, ...]]:
    """Every family in every padding and almost every kind of reward models, every kind in every padding, each with
    both engines and all sizes of chunks."""
    return [
        (family, *KINDS[(row + column) % 5], padding, ("auto", "hf")[(row + column // 2) % 2], (8, 2, 1)[row % 3])
        for row, family in enumerate(FAMILIES)
        for column, padding in enumerate(PADDINGS)
    ]


def reward_models(kind: str, family: str, base: Any, count: int, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """``count`` reward models as the library takes them, and as transformers and peft run them."""
    given: dict[str, Any] = {}
    plain = []
    for index in range(count):
        if kind == "lora":
            path = save_adapter(base, family, folder / f"adapter_{index}", seed=10 + index)
            given[f"rm_{index}"] = str(path)
            plain.append(with_adapter(base, path))
        else:  # of another width and depth, with a padded vocabulary, the second of another family
            own = ("gpt2" if family == "llama" else "llama") if index == 1 else family
            shape: dict[str, Any] = {"hidden": 16 * (index + 1), "layers": 4, "vocab": (VOCAB + 7, 128)[index]}
            given[f"rm_{index}"] = make_model(own, seed=20 + index, tie=index % 2 == 1, **shape)
            plain.append(given[f"rm_{index}"])
    return given, plain


@pytest.mark.parametrize(("family", "count", "kind", "padding", "engine", "max_batch_size"), pairwise())
def test_greedy_equals_a_plain_loop_over_transformers(
    family: str, count: int, kind: str, padding: str, engine: Any, max_batch_size: int, tmp_path: Path
) -> None:
    base = make_model(family, seed=1, tie=padding in {"left", "list"})
    given, plain = reward_models(kind, family, base, count, tmp_path)
    prompts = random_prompts([7] if padding == "alone" else RAGGED, seed=count)
    call: Any = {"left": left_padded, "right": right_padded}.get(padding, lambda rows: (rows,))(prompts)
    decoder = GuidedDecoder(base, given, engine=engine, max_batch_size=max_batch_size)
    weights = dict(zip(given, WEIGHTS, strict=False))
    out = decoder.generate(*call, weights=weights, temperature=0.0, max_new_tokens=STEPS)
    compared = 0
    for row, prompt in enumerate(prompts):
        # the plain loop normalises over the shared ids alone, which shifts all of a row alike
        expected = plain_greedy([base, *plain], [1.0, *weights.values()], prompt, STEPS)
        assert out.tokens[row].tolist()[: len(expected)] == expected
        compared += len(expected)
        if expected and expected[-1] == 2:
            assert out.finish_reasons[row] == "eos"
    assert compared > 0.8 * sum(map(len, out.tokens)), "near ties everywhere: choose other seeds"


def test_a_padded_base_never_emits_its_padding() -> None:
    base = make_model("llama", seed=1, vocab=104)
    with torch.no_grad():
        base.lm_head.weight[VOCAB:] = 50.0 * base.lm_head.weight[5].sign()
    out = GuidedDecoder(base, [make_model("llama", seed=2)]).generate(random_prompts([5]), max_new_tokens=20, seed=3)
    assert int(out.tokens[0].max()) < VOCAB


@pytest.mark.parametrize(
    ("family", "temperature"), [("llama", 0.9), ("mistral", 0.0), ("qwen2", 0.9), ("qwen3", 0.0), ("gemma3", 0.9)]
)
def test_every_engine_draws_the_same_tokens_and_says_what_ran(family: str, temperature: float, tmp_path: Path) -> None:
    base, other = make_model(family, seed=1), make_model("qwen2", seed=3, hidden=16)
    folder = save_adapter(base, family, tmp_path / "a", seed=4)
    options: dict[str, Any] = {"weights": [0.8, -0.4], "temperature": temperature, "seed": 5, "max_new_tokens": 12}
    outs = {}
    for engine in ("auto", "eager", "hf"):
        decoder = GuidedDecoder(base, [folder, other], engine=engine)  # type: ignore[arg-type]
        outs[engine] = decoder.generate(random_prompts([6, 13, 1], seed=1), **options)
    fused = "hf+fused" if family == "gemma3" else "fused"
    assert [out.stats.engine for out in outs.values()] == [fused, fused, "hf"]
    assert all(torch.equal(out.sequences, outs["auto"].sequences) for out in outs.values())
