"""What a session keeps still, what it never asks a device for, and what it leaves behind in the model: nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import FAMILIES, LINEARS, VOCAB, make_model, random_prompts, save_adapter, with_adapter
from peft import LoraConfig, get_peft_model
from sessions import decode
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
)

from genarm.models.adapters import read_adapter
from genarm.models.causal import make_model as stream_model
from genarm.models.hf.attention import NAME
from genarm.models.hf.session import HFBackbone

PROMPTS = random_prompts([5, 13, 1], seed=1)
TOKENS = torch.tensor([5, 6, 7])


def full_logits(plain: Any, rows: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.stack([plain(input_ids=row[None]).logits[0, -1] for row in rows])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_session_stays_where_it_is(family: str) -> None:
    session = HFBackbone(stream_model("m", make_model(family)), 0).session(3, 120)
    session.prefill([PROMPTS])

    def places() -> list[tuple[int, tuple[int, ...]]]:
        buffers = [buffer for pair in session._cache.buffers.values() for buffer in pair]
        return [(one.data_ptr(), tuple(one.shape)) for one in [*buffers, session._lengths, session._rows]]

    before = places()
    assert len(before) == 2 * 2 + 2
    for step in range(100):
        decode(session, TOKENS + step % 50)
        assert session._lengths.tolist() == [5 + step + 1, 13 + step + 1, 1 + step + 1]
    session.prefill([PROMPTS[:2]])
    assert places() == before


def test_a_session_goes_from_inference_mode_to_no_grad_and_back() -> None:
    backbone = HFBackbone(stream_model("m", make_model("llama")), 0)

    def run(modes: list[bool]) -> Tensor:
        with torch.inference_mode(modes[0]):
            session = backbone.session(3, 30)
        with torch.inference_mode(modes[1]):
            logits = session.prefill([PROMPTS])
        for mode in modes[2:]:
            with torch.inference_mode(mode):
                logits += decode(session, TOKENS)
        return torch.stack(logits)

    assert torch.equal(run([True, True, False, True]), run([False, False, True, False]))


class Waits(TorchDispatchMode):
    """Notes operations that would read a device's memory or write it from the host's."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        moved = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if moved or name in ("_local_scalar_dense", "nonzero", "lift_fresh", "lift_fresh_copy", "is_nonzero", "equal"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_for_nothing(family: str, tmp_path: Path) -> None:
    plain = make_model(family)
    adapter = read_adapter(save_adapter(plain, family, tmp_path / "a", seed=4)).fit(plain)
    session = HFBackbone(stream_model("m", plain, adapter), 0).session(3, 30)
    session.prefill([PROMPTS])
    with Waits() as waits:
        decode(session, TOKENS)
        decode(session, TOKENS)
    assert waits.seen == []
    with waits:
        torch.tensor(1).item()
        torch.ones(2).nonzero()
    assert {"lift_fresh", "_local_scalar_dense", "nonzero"} <= set(waits.seen), "the check sees what it is to see"


def traces(model: nn.Module) -> list[Any]:
    """What a forward pass of ours may change in a model."""
    parts = [
        (
            len(part._forward_hooks),
            len(part._forward_pre_hooks),
            part.training,
            getattr(part, "_disable_adapters", None),
        )
        for part in model.modules()
    ]
    configs = [vars(part.config).copy() for part in model.modules() if hasattr(part, "config")]
    return [parts, configs, [(parameter.requires_grad, parameter.data_ptr()) for parameter in model.parameters()]]


def test_the_model_is_as_it_was_between_steps_and_after_an_error(tmp_path: Path) -> None:
    plain = make_model("llama", seed=1)
    folder = save_adapter(plain, "llama", tmp_path / "a", seed=4)
    tuned = with_adapter(plain, folder)
    inner = tuned.get_base_model()
    inner.train()
    inner.model.layers[0].eval()
    next(inner.parameters()).requires_grad_(False)
    inner.model.layers[1].self_attn.v_proj._disable_adapters = True
    before = traces(tuned)
    assert inner.config._attn_implementation == "sdpa"
    backbones = [
        HFBackbone(stream_model("off", inner, without=tuned), 0),
        HFBackbone(stream_model("on", tuned), 0),
        HFBackbone(stream_model("hooked", inner, read_adapter(folder).fit(inner), without=tuned), 0),
    ]
    for backbone in backbones:
        session = backbone.session(3, 30)
        assert traces(tuned) == before
        session.prefill([PROMPTS])
        assert traces(tuned) == before
        decode(session, TOKENS)
        assert traces(tuned) == before
        handle = inner.model.layers[1].mlp.register_forward_hook(stumble)
        for call in (lambda: decode(session, TOKENS), lambda: session.prefill([PROMPTS])):  # noqa: B023
            with pytest.raises(RuntimeError, match="stumbled"):
                call()
        handle.remove()
        assert traces(tuned) == before
        assert backbone.kind == "hf"


def stumble(*_args: Any) -> None:
    raise RuntimeError("stumbled")


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers")
def test_trained_modules_beside_an_adapter_go_off_with_it() -> None:
    plain = make_model("llama", seed=1)
    settings = LoraConfig(r=4, target_modules=LINEARS["llama"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    tuned = get_peft_model(copy.deepcopy(plain), settings).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.2)
    trainable = [parameter.requires_grad for parameter in tuned.parameters()]
    session = HFBackbone(stream_model("base", tuned.get_base_model(), without=tuned), 0).session(3, 30)
    torch.testing.assert_close(session.prefill([PROMPTS])[0], full_logits(plain, PROMPTS), atol=1e-5, rtol=1e-5)
    assert [parameter.requires_grad for parameter in tuned.parameters()] == trainable and any(trainable)


def test_the_attention_serves_sessions_only() -> None:
    plain = make_model("llama", seed=1)
    expected = full_logits(plain, PROMPTS)
    HFBackbone(stream_model("m", plain), 0).session(3, 30).prefill([PROMPTS])
    assert torch.equal(full_logits(plain, PROMPTS), expected)
    plain.config._attn_implementation = NAME
    with pytest.raises(RuntimeError, match="own forward passes only"):
        full_logits(plain, PROMPTS)


SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def bloom() -> Any:
    return BloomForCausalLM(BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, attention_dropout=0.0))


def chunked() -> Any:
    experts = {"num_local_experts": 2, "intermediate_size_mlp": 48, "num_key_value_heads": 2, "head_dim": 8}
    return Llama4ForCausalLM(
        Llama4TextConfig(**SMALL, **experts, attention_chunk_size=8, layer_types=["chunked_attention"] * 2)
    )


@pytest.mark.parametrize("make", [bloom, chunked])
def test_models_that_do_not_take_part_are_padded(make: Any) -> None:
    torch.manual_seed(1)
    plain = make().eval()
    before = traces(plain)
    backbone = HFBackbone(stream_model("m", plain), 0)
    assert backbone.kind == "hf-padded"
    for _ in range(2):
        session = backbone.session(3, 30)
        rows = list(PROMPTS)
        (logits,) = session.prefill([PROMPTS])
        for _ in range(4):
            torch.testing.assert_close(logits, full_logits(plain, rows), atol=1e-4, rtol=0)
            (logits,) = decode(session, TOKENS)
            rows = [torch.cat([row, token[None]]) for row, token in zip(rows, TOKENS, strict=True)]
        torch.testing.assert_close(logits, full_logits(plain, rows), atol=1e-4, rtol=0)
    assert traces(plain) == before


def test_a_compiled_model_keeps_its_own_way() -> None:
    plain = make_model("llama", seed=1)
    compiled: Any = torch.compile(plain, backend="eager")
    assert HFBackbone(stream_model("m", compiled), 0).kind == "hf-padded"


def window_of_its_own(plain: Any) -> None:
    """The modules know no window, the configuration and so the model's masks do."""
    plain.config.sliding_window = 64


def layer_types_of_its_own(plain: Any) -> None:
    plain.config.sliding_window = 64
    plain.config.layer_types = ["full_attention", "sliding_attention"]


def implementation_of_its_own(plain: Any) -> None:
    """A layer that calls one attention function, whatever the configuration says."""
    plain.model.layers[1].self_attn.config = SimpleNamespace(_attn_implementation="sdpa")


def with_keywords(part: Any, change: Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]) -> None:
    forward = part.forward
    part.forward = lambda *args, **kwargs: forward(*args, **change(args, kwargs))


def keyword_of_its_own(plain: Any) -> None:
    """What transformers' functions do not know they ignore; ours cannot know that it may."""
    with_keywords(plain.model.layers[1], lambda _args, kwargs: {**kwargs, "unheard_of": torch.zeros(1)})


def mask_of_its_own(plain: Any) -> None:
    def masked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        tokens = args[0].shape[1]
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
        return {**kwargs, "attention_mask": mask if kwargs["attention_mask"] is None else kwargs["attention_mask"]}

    with_keywords(plain.model.layers[1], masked)


def looks_into_its_cache(plain: Any) -> None:
    def looking(_args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs.get("past_key_values") is not None:
            len(kwargs["past_key_values"].layers)
        return kwargs

    with_keywords(plain.model, looking)


@pytest.mark.parametrize(
    "spoil",
    [
        window_of_its_own, layer_types_of_its_own, implementation_of_its_own, keyword_of_its_own, mask_of_its_own,
        looks_into_its_cache,
    ],
)  # fmt: skip
def test_what_shows_in_the_first_pass_is_not_overlooked(spoil: Any) -> None:
    plain = make_model("llama", seed=1)
    spoil(plain)
    expected = full_logits(plain, PROMPTS)
    backbone = HFBackbone(stream_model("m", plain), 0)
    session = backbone.session(3, 30)
    torch.testing.assert_close(session.prefill([PROMPTS])[0], expected, atol=1e-4, rtol=0)
    assert backbone.kind == "hf-padded"
    longer = [torch.cat([row, token[None]]) for row, token in zip(PROMPTS, TOKENS, strict=True)]
    if spoil is not mask_of_its_own:
        torch.testing.assert_close(decode(session, TOKENS)[0], full_logits(plain, longer), atol=1e-4, rtol=0)


def test_cache_bytes_are_those_of_the_buffers() -> None:
    for family in FAMILIES:
        backbone = HFBackbone(stream_model("m", make_model(family)), 0)
        session = backbone.session(3, 30)
        session.prefill([PROMPTS])
        buffers = [buffer for pair in session._cache.buffers.values() for buffer in pair]
        assert sum(buffer.numel() * buffer.element_size() for buffer in buffers) == backbone.cache_bytes(3, 30)
