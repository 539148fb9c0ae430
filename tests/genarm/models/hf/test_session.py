"""A session's logits are those of full forward passes of the plain model, whatever the batch, step after step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, VOCAB, make_model, random_prompts, save_adapter, with_adapter
from sessions import decode
from torch import Tensor, nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, GptOssConfig, GptOssForCausalLM

from genarm.models.adapters import read_adapter
from genarm.models.causal import make_model as stream_model
from genarm.models.hf import attention
from genarm.models.hf import session as hf
from genarm.models.hf.session import HFBackbone

LENGTHS = [5, 13, 1, 20, 13]
STEPS = 8
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def prompts_of(lengths: list[int], seed: int = 1) -> list[Tensor]:
    """The last prompt is the second one again."""
    prompts = random_prompts(lengths, seed=seed)
    return [*prompts[:-1], prompts[1].clone()] if len(prompts) > 2 else prompts


def full_logits(plain: Any, rows: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.stack([plain(input_ids=row[None]).logits[0, -1] for row in rows])


def assert_equal(found: Tensor, expected: Tensor, step: int) -> None:
    error = float((found - expected).abs().max())
    assert error < 1e-4, f"step {step}: logits up to {float(expected.abs().max()):.2f} are {error:.1e} off"


def assert_steps_equal(backbone: HFBackbone, plain: Any, prompts: list[Tensor], steps: int = STEPS) -> None:
    session = backbone.session(len(prompts), max(map(len, prompts)) + steps)
    rows = list(prompts)
    (logits,) = session.prefill([prompts])
    for step in range(steps):
        assert_equal(logits, full_logits(plain, rows), step)
        tokens = full_logits(plain, rows).argmax(-1)
        (logits,) = decode(session, tokens)
        rows = [torch.cat([row, token[None]]) for row, token in zip(rows, tokens, strict=True)]
    assert_equal(logits, full_logits(plain, rows), steps)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(family: str) -> Any:
    return make_model(family, seed=1)


@pytest.fixture(scope="module")
def folder(family: str, plain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(plain, family, tmp_path_factory.mktemp(family), seed=4)


def test_every_step_is_the_full_forward_pass(plain: Any) -> None:
    backbone = HFBackbone(stream_model("m", plain), 0)
    assert_steps_equal(backbone, plain, prompts_of(LENGTHS))
    assert backbone.kind == "hf"


def test_with_an_adapter_in_place_and_as_a_peft_model(plain: Any, folder: Path) -> None:
    tuned = with_adapter(plain, folder)
    adapter = read_adapter(folder).fit(plain)
    for model in (
        stream_model("in place", plain, adapter),
        stream_model("peft", tuned),
        stream_model("inside of peft, on", tuned.get_base_model()),
    ):
        assert_steps_equal(HFBackbone(model, 0), tuned, prompts_of(LENGTHS), steps=3)
    for model in (
        stream_model("inside of peft, off", tuned.get_base_model(), without=tuned),
        stream_model("base", plain),
    ):
        assert_steps_equal(HFBackbone(model, 0), plain, prompts_of(LENGTHS), steps=3)


def test_a_row_does_not_depend_on_its_batch(plain: Any) -> None:
    backbone = HFBackbone(stream_model("m", plain), 0)
    prompts, given = prompts_of(LENGTHS), torch.arange(3, 3 + STEPS)

    def run(rows: list[int]) -> Tensor:
        session = backbone.session(len(rows), 40)
        logits = session.prefill([[prompts[row] for row in rows]])
        return torch.stack(logits + [decode(session, token.expand(len(rows)))[0] for token in given])

    whole = run([0, 1, 2, 3, 4])
    for rows in ([0], [3], [2, 0], [4, 3, 2, 1, 0], [1, 1, 2]):
        torch.testing.assert_close(run(rows), whole[:, rows], atol=1e-5, rtol=1e-5)


def test_long_prompts_are_read_in_parts(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "CHUNK", 8)
    monkeypatch.setattr(attention, "QUERY_BLOCK", 3)
    backbone = HFBackbone(stream_model("m", plain), 0)
    assert_steps_equal(backbone, plain, prompts_of([3, 25, 2, 16, 9]), steps=3)
    assert backbone.kind == "hf"


def test_a_session_used_again_says_the_same(plain: Any) -> None:
    session = HFBackbone(stream_model("m", plain), 0).session(5, 40)

    def run(prompts: list[Tensor]) -> Tensor:
        tokens = torch.arange(3, 3 + len(prompts))
        return torch.stack(session.prefill([prompts]) + [decode(session, tokens)[0] for _ in range(4)])

    first = run(prompts_of(LENGTHS))
    run(prompts_of([30, 2, 7, 4], seed=2))
    assert torch.equal(run(prompts_of(LENGTHS)), first)


def small_gpt_oss() -> Any:
    """Sinks beside the scores, sliding layers, experts."""
    types = ["sliding_attention", "full_attention"]
    config = GptOssConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        layer_types=types, rope_parameters={"rope_type": "default", "rope_theta": 1e4}, attn_implementation="eager",
    )  # fmt: skip
    return GptOssForCausalLM(config)


def small_deepseek() -> Any:
    """Values narrower than keys, and experts."""
    config = DeepseekV3Config(
        **SMALL, num_key_value_heads=4, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=12, q_lora_rank=16,
        kv_lora_rank=16, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1,
        first_k_dense_replace=1,
    )  # fmt: skip
    return DeepseekV3ForCausalLM(config)


@pytest.mark.parametrize("make", [small_gpt_oss, small_deepseek])
def test_sinks_and_values_of_another_width(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", 7)
    torch.manual_seed(1)
    plain = make().eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(0, 0.2)
    backbone = HFBackbone(stream_model("m", plain), 0)
    assert_steps_equal(backbone, plain, prompts_of(LENGTHS), steps=4)
    assert backbone.kind == "hf"


def count_tokens(module: nn.Module) -> list[int]:
    """By its forward: hooks would be shown all rows at once."""
    counts: list[int] = []
    forward = module.forward

    def counted(states: Tensor) -> Any:
        counts.append(states.shape[0] * states.shape[1])
        return forward(states)

    module.forward = counted  # type: ignore[method-assign]
    return counts


def test_a_prompt_that_several_rows_share_is_read_once_and_the_head_sees_last_tokens_only() -> None:
    plain = make_model("llama", seed=1)
    embedded, headed = count_tokens(plain.get_input_embeddings()), count_tokens(plain.get_output_embeddings())
    session = HFBackbone(stream_model("m", plain), 0).session(6, 40)
    one, other = random_prompts([9, 6])
    session.prefill([[one.clone() for _ in range(6)]])
    assert (sum(embedded), sum(headed)) == (9, 1)
    session.prefill([[one, other, one.clone(), other.clone(), one, one]])
    assert (sum(embedded), sum(headed)) == (9 + 2 * 9, 1 + 2)
    decode(session, torch.arange(6))
    assert (embedded[-1], headed[-1]) == (6, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    plain = make_model("qwen3", seed=1).to(dtype)
    session = HFBackbone(stream_model("m", plain), 0).session(5, 40)
    rows = prompts_of(LENGTHS)
    found = [*session.prefill([rows]), *decode(session, torch.full((5,), 7))]
    expected = [full_logits(plain, rows), full_logits(plain, [torch.cat([row, torch.tensor([7])]) for row in rows])]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == (torch.float32 if dtype == torch.float64 else dtype)
        torch.testing.assert_close(one.float(), other.float(), atol=3e-2, rtol=0)


def test_what_is_not_a_number_stays_in_its_row_and_its_batch() -> None:
    plain = make_model("llama", seed=1)
    with torch.no_grad():
        plain.get_input_embeddings().weight[0] = torch.nan
    prompts = prompts_of([4, 9, 2])
    session = HFBackbone(stream_model("m", plain), 0).session(3, 30)
    (expected,) = session.prefill([prompts])
    assert bool(expected.isfinite().all()), "no row is padded with token 0"
    (logits,) = session.prefill([[prompts[0], torch.zeros(20, dtype=torch.int64), prompts[2]]])
    for tokens in (torch.tensor([5, 5, 5]), torch.tensor([5, 5, 0])):
        assert logits.isfinite().all(-1).tolist() == [True, False, True]
        (logits,) = decode(session, tokens)
    assert logits.isfinite().all(-1).tolist() == [True, False, False]
    session.prefill([[prompts[1], prompts[0]]])  # reads beyond row 1's end, where the last batch left what it had
    assert bool(decode(session, torch.tensor([5, 5]))[0].isfinite().all())
    assert torch.equal(session.prefill([prompts])[0], expected)


def test_a_model_left_in_training_mode_has_no_dropout_here() -> None:
    plain = make_model("gpt2", seed=1)
    expected = full_logits(plain, prompts_of(LENGTHS))
    plain.train()
    session = HFBackbone(stream_model("m", plain), 0).session(5, 40)
    assert_equal(session.prefill([prompts_of(LENGTHS)])[0], expected, 0)
    assert plain.training
