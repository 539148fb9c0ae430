"""What is trained starts as the base, from the seed, with the right parts trainable in the right precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model
from training_cases import run_settings, save_base
from transformers import AutoTokenizer

from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError, LoadingError
from genarm.preferences.chat import pair_tokenizer
from genarm.training.models import SHORT, trained_model

IDS = torch.tensor([[0, 5, 9, 30, 1]])


def model(base: str, longest: int = 20, **changes: Any) -> Any:
    settings = run_settings(base, "data", **changes)
    return trained_model(settings, pair_tokenizer(base), longest)


def trained(made: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in made.named_parameters() if weight.requires_grad}


def test_lora_is_on_every_linear_layer_but_the_head_and_starts_as_the_base(base: str) -> None:
    made = model(base)
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained(made)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert made.training and not made.config.use_cache
    made.eval()
    with torch.no_grad(), made.disable_adapter():
        expected = made(IDS).logits
    assert torch.equal(made(IDS).logits, expected)


def test_layers_can_be_named(base: str) -> None:
    assert all(".q_proj." in name for name in trained(model(base, target_modules=("q_proj",))))
    with pytest.raises(InvalidArgumentError, match=r"takes no such LoRA .*attention.* name other target modules"):
        model(base, target_modules=("attention",))


@pytest.mark.parametrize("kind", ["arm", "trajectory-rm", "dpo"])
def test_what_is_new_is_drawn_from_the_seed(base: str, kind: str) -> None:
    first, again, other = (trained(model(base, kind=kind, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name or "score" in name)


def test_a_rank_of_0_trains_every_weight_in_float32(base: str) -> None:
    made = model(base, rank=0, precision="bf16")
    assert not hasattr(made, "peft_config")
    assert len(trained(made)) == len(list(made.parameters()))
    assert all(weight.dtype == torch.float32 for weight in made.parameters())


def test_a_frozen_base_is_held_in_bfloat16_where_matrices_are_and_its_adapter_never(base: str) -> None:
    made = model(base, precision="bf16")
    assert {weight.dtype for weight in made.parameters() if not weight.requires_grad} == {torch.bfloat16}
    assert {weight.dtype for weight in trained(made).values()} == {torch.float32}
    assert {weight.dtype for weight in model(base).parameters()} == {torch.float32}


@pytest.mark.parametrize("rank", [0, 2])
def test_a_trajectory_rm_has_a_score_that_is_trained(base: str, rank: int) -> None:
    made = model(base, kind="trajectory-rm", rank=rank)
    scores = [weight for name, weight in trained(made).items() if "score" in name]
    assert [weight.shape for weight in scores] == [(1, 16)]
    assert made.config.num_labels == 1 and made.config.pad_token_id == pair_tokenizer(base).pad_token_id


def test_gradients_reach_adapters_through_checkpoints(base: str) -> None:
    made = model(base, gradient_checkpointing=True)
    made.gradient_checkpointing_enable()
    made(IDS).logits.sum().backward()
    grads = [weight.grad for name, weight in trained(made).items() if "lora_B" in name]
    assert grads and all(grad is not None and grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize(("longest", "attention"), [(SHORT, "eager"), (SHORT + 1, "sdpa")])
def test_short_sequences_attend_by_plain_products(base: str, longest: int, attention: str) -> None:
    assert model(base, longest).config._attn_implementation == attention


def test_more_tokens_than_positions_are_refused(base: str) -> None:
    model(base, 96)
    with pytest.raises(
        InvalidArgumentError, match="96 positions, and a sequence has 97 tokens: lower max length to 96"
    ):
        model(base, 97)


def test_padding_is_the_tokenizer_s_own_or_its_eos(tmp_path: Any) -> None:
    own = pair_tokenizer(str(BASE))
    assert own.pad_token_id not in (None, own.eos_token_id)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert pair_tokenizer(str(tmp_path)).pad_token_id == tokenizer.eos_token_id


def test_a_base_without_a_tokenizer_is_refused(tmp_path: Any) -> None:
    make_model("llama").save_pretrained(tmp_path)
    with pytest.raises(LoadingError, match="has no tokenizer"):
        pair_tokenizer(str(tmp_path))


def test_a_base_without_an_end_of_sequence_is_refused(tmp_path: Any) -> None:
    folder = save_base(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(InvalidArgumentError, match="no end-of-sequence token"):
        pair_tokenizer(folder)
