"""What is trained starts as the base, from the seed, with the right parts trainable in the right precision."""

import pytest
import torch
from training_cases import run_settings

from genarm.errors import InvalidArgumentError
from genarm.preferences.chat import pair_tokenizer
from genarm.training.models import SHORT, trained_model

IDS = torch.tensor([[0, 5, 9, 30, 1]])


@pytest.fixture
def model(base):
    def make(longest=20, **changes):
        return trained_model(run_settings(base, "data", **changes), pair_tokenizer(base), longest)

    return make


def trainable(made):
    return {name: weight for name, weight in made.named_parameters() if weight.requires_grad}


def test_lora_is_on_every_linear_layer_but_the_head_and_starts_as_the_base(model):
    made = model()
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trainable(made)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert made.training and not made.config.use_cache
    made.eval()
    with torch.no_grad(), made.disable_adapter():
        expected = made(IDS).logits
    assert torch.equal(made(IDS).logits, expected)
    assert all(".q_proj." in name for name in trainable(model(target_modules=("q_proj",))))
    with pytest.raises(InvalidArgumentError, match=r"takes no such LoRA .*attention.* name other target modules"):
        model(target_modules=("attention",))


def test_what_is_trained_is_float32_and_a_frozen_base_in_bfloat16_where_matrices_are(model):
    whole = model(rank=0, precision="bf16")
    assert not hasattr(whole, "peft_config") and len(trainable(whole)) == len(list(whole.parameters()))
    assert all(weight.dtype == torch.float32 for weight in whole.parameters())
    made = model(precision="bf16")
    assert {weight.dtype for weight in made.parameters() if not weight.requires_grad} == {torch.bfloat16}
    assert {weight.dtype for weight in trainable(made).values()} == {torch.float32}
    assert {weight.dtype for weight in model().parameters()} == {torch.float32}


def test_short_sequences_attend_by_plain_products_and_those_over_the_positions_are_refused(model):
    found = [model(longest).config._attn_implementation for longest in (SHORT, SHORT + 1, 96)]
    assert found == ["eager", "sdpa", "sdpa"]
    with pytest.raises(
        InvalidArgumentError, match="96 positions, and a sequence has 97 tokens: lower max length to 96"
    ):
        model(97)
