"""The two paths are one decoder: the same tokens from the fused decoder and from transformers' forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, VOCAB, guided_log_probs, make_model, random_prompts, save_adapter, with_adapter
from fused_cases import VARIETIES, build, kinds, untouched
from torch import Tensor

import genarm_kernels
from genarm import GuidedDecoder
from genarm.models.plan import Plan
from genarm_kernels import noise

WEIGHTS = [0.8, -0.4]
STEPS = 16
SEED = 5
PROMPTS = random_prompts([6, 13, 1, 13], seed=1)


def on_transformers(decoder: GuidedDecoder) -> GuidedDecoder:
    """The same decoder on the other path."""
    decoder.engine.plan = Plan(decoder.models, fuse=False)
    return decoder


def compared(models: list[Any], ids: Tensor, row: int, temperature: float) -> Tensor:
    """[V] what the draw compares: guided scores, with their noise where there is a temperature."""
    scores = guided_log_probs(models, [1.0, *WEIGHTS], ids)
    if not temperature:
        return scores
    seed = genarm_kernels.row_seeds(SEED, len(PROMPTS))[row : row + 1]
    words = noise.noise_words(seed, torch.tensor([len(ids)]), torch.arange(VOCAB)[None], noise.TOKEN.value)
    return scores / temperature - noise.exponential(words)[0].double().log()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("variety", VARIETIES)
def test_both_paths_draw_the_same_tokens(variety: str, temperature: float, tmp_path: Path) -> None:
    """With an adapter and a model of another family; up to a near tie, after which float32 may differ."""
    base, other = build(variety), make_model("qwen2", seed=3, hidden=16)
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, target_modules=[*LLAMA_LINEARS, "lm_head"])
    models = [untouched(base), with_adapter(base, folder), untouched(other)]
    options: dict[str, Any] = {"weights": WEIGHTS, "temperature": temperature, "seed": SEED, "max_new_tokens": STEPS}
    fused, theirs = GuidedDecoder(base, [folder, other]), on_transformers(GuidedDecoder(base, [folder, other]))
    assert kinds(fused) == ["fused", "fused"]
    assert kinds(theirs) == ["hf", "hf", "hf"]
    first, second = (decoder.generate(PROMPTS, eos_token_id=[], **options) for decoder in (fused, theirs))
    for row, (mine, its) in enumerate(zip(first.tokens, second.tokens, strict=True)):
        if torch.equal(mine, its):
            continue
        same = int((mine != its).int().argmax())
        ids = torch.cat([PROMPTS[row], mine[:same]])
        best = compared(models, ids, row, temperature).topk(2).values
        assert float(best[0] - best[1]) < 1e-4, f"row {row}, token {same}"


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_excuse_knows_what_is_drawn(temperature: float, tmp_path: Path) -> None:
    base, other = build("llama"), make_model("qwen2", seed=3, hidden=16)
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    models = [untouched(base), with_adapter(base, folder), untouched(other)]
    options: dict[str, Any] = {"weights": WEIGHTS, "temperature": temperature, "seed": SEED, "max_new_tokens": 1}
    out = GuidedDecoder(base, [folder, other]).generate(PROMPTS, **options)
    for row, prompt in enumerate(PROMPTS):
        assert int(compared(models, prompt, row, temperature).argmax()) == int(out.tokens[row])
