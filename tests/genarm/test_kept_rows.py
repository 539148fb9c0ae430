"""What knows the rows of a batch gets them as the caller gave them: in their order, equal ones too, and all of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from families import left_padded, make_model, random_prompts, save_adapter
from peft import PeftModel
from torch import Tensor
from transformers import GPT2LMHeadModel, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

import genarm
from genarm import GuidedDecoder, UnsupportedGenerationError

OURS: dict[str, Any] = {"custom_generate": genarm.custom_generate}
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
SAME = random_prompts([4])[0].expand(3, 4), torch.ones(3, 4, dtype=torch.int64)
# The longest first, so that sorting would show; and with a column of padding that no row needs.
RAGGED = left_padded(random_prompts([9, 2, 5], seed=1))
WIDER = tuple(torch.nn.functional.pad(part, (2, 0)) for part in RAGGED)
BATCHES = {"equal rows": SAME, "ragged rows": RAGGED, "padded rows": WIDER}


@pytest.fixture(params=BATCHES.values(), ids=BATCHES)
def batch(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"input_ids": request.param[0], "attention_mask": request.param[1], **GREEDY}


def assert_rows_are_kept(model: Any, call: dict[str, Any]) -> None:
    expected = model.generate(**call)
    assert len({tuple(row) for row in expected[:, -5:].tolist()}) == len(expected), "rows that differ by what is known"
    assert torch.equal(model.generate(**call, **OURS), expected)


def test_adapters_by_row(tmp_path: Path, batch: dict[str, Any]) -> None:
    base = make_model("llama", seed=1)
    folders = [str(save_adapter(base, "llama", tmp_path / name, seed)) for name, seed in (("a", 4), ("b", 9))]
    model = PeftModel.from_pretrained(base, folders[0], adapter_name="a").eval()
    model.load_adapter(folders[1], "b")
    assert_rows_are_kept(model, {**batch, "adapter_names": ["b", "__base__", "a"]})


def test_a_hook_that_knows_rows(batch: dict[str, Any]) -> None:
    """Steering vectors, one per row, at the last token of each."""
    model = make_model("gpt2", seed=1)
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)) * 4

    def steer(_module: Any, args: tuple[Tensor, ...], *_: Any) -> Any:
        hidden = args[0].clone()
        hidden[:, -1] += vectors
        return (hidden, *args[1:])

    model.transformer.h[1].register_forward_pre_hook(steer)
    assert_rows_are_kept(model, batch)
    expected = model.generate(**batch)
    prompts = [row[mask.bool()] for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    decoder = GuidedDecoder(model)
    out = decoder.generate(prompts, temperature=0.0, max_new_tokens=5, eos_token_id=[])
    assert torch.equal(torch.stack(out.tokens), expected[:, -5:])


class Scaled(LlamaForCausalLM):
    """A model whose forward pass takes something for each row."""

    def forward(
        self, *args: Any, row_scale: Tensor | None = None, names: list[str] | None = None, **kwargs: Any
    ) -> Any:
        out = super().forward(*args, **kwargs)
        assert names is None or len(names) == len(out.logits)
        scales = row_scale if names is None else torch.tensor([float(name) for name in names])
        if scales is not None:
            ids = torch.arange(out.logits.shape[-1])
            out.logits = out.logits + torch.sin(ids * scales[:, None, None]) * 20
        return out


@pytest.mark.parametrize("keyword", ["row_scale", "names"])
def test_keywords_by_row(batch: dict[str, Any], keyword: str) -> None:
    """A tensor, and what is none, with a reward model beside it that has no part in them."""
    model = make_model("llama", seed=1)
    model.__class__ = Scaled
    values: dict[str, Any] = {"row_scale": torch.tensor([1.0, 2.0, 3.0]), "names": ["1", "2", "3"]}
    assert_rows_are_kept(model, {**batch, keyword: values[keyword]})
    weighted = {"reward_models": [make_model("llama", seed=2)], "reward_weights": [0.0]}
    guided = model.generate(**batch, **{keyword: values[keyword]}, **weighted, **OURS)
    assert torch.equal(guided, model.generate(**batch, **{keyword: values[keyword]}))
    assert not model._forward_pre_hooks
    assert torch.equal(model.generate(**batch, **OURS), model.generate(**batch)), "the next call has none"
    if keyword == "row_scale":
        several = {**batch, "row_scale": values["row_scale"], "num_return_sequences": 2, "do_sample": True, "top_k": 1}
        assert torch.equal(model.generate(**several, **OURS), model.generate(**several))


def test_what_a_model_prepares_in_its_own_way_is_refused() -> None:
    class Other(Phi3ForCausalLM):
        def forward(self, *args: Any, row_scale: Tensor | None = None, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = Other(Phi3Config(vocab_size=97, pad_token_id=0, **shape))
    with pytest.raises(UnsupportedGenerationError, match="row_scale was passed, and Other prepares its inputs"):
        model.generate(SAME[0], row_scale=torch.ones(3), **GREEDY, **OURS)


def test_a_batch_in_parts_is_said_where_hooks_may_know_its_rows() -> None:
    model: GPT2LMHeadModel = make_model("gpt2", seed=1)
    decoder = GuidedDecoder(model, max_batch_size=2)
    prompts = random_prompts([4, 2, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder.generate(prompts, max_new_tokens=1)
    model.transformer.ln_f.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="decoded in 2 chunks: raise max_batch_size"):
        decoder.generate(prompts, max_new_tokens=1)
    with pytest.warns(UserWarning, match="without those that failed"):
        GuidedDecoder(model).generate([[5], []], max_new_tokens=1)


def test_scored_rows_that_hooks_know_are_kept(batch: dict[str, Any]) -> None:
    """In the caller's order, though the first response is the longest and one is empty."""
    model = make_model("gpt2", seed=1)
    scales = torch.tensor([1.0, -2.0, 0.5])
    model.transformer.h[1].register_forward_hook(lambda _module, _args, out: _scaled(out, scales))
    prompts = [row[mask.bool()] for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    responses = [[5, 6, 7], [], [9]]
    found = GuidedDecoder(model).score(prompts, responses)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        plain = make_model("gpt2", seed=1)
        plain.transformer.h[1].register_forward_hook(lambda _module, _args, out, row=row: _scaled(out, scales[[row]]))
        with torch.no_grad():
            log_probs = plain(torch.cat([prompt, torch.tensor(response).long()])[None]).logits[0].log_softmax(-1)
        own = [log_probs[len(prompt) - 1 + place, token] for place, token in enumerate(response)]
        assert float(found.totals[row]) == pytest.approx(float(sum(own, torch.tensor(0.0))), abs=1e-4)
    with pytest.warns(UserWarning, match="decoded in 2 chunks"):
        GuidedDecoder(model, max_batch_size=2).score(prompts, [[5], [6], [7]])


def _scaled(out: Any, scales: Tensor) -> Any:
    hidden, *others = out if isinstance(out, tuple) else (out,)
    scaled = hidden * scales[: len(hidden), None, None]
    return (scaled, *others) if others or isinstance(out, tuple) else scaled
