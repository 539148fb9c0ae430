"""NaN in one place of a model: its row says so, whatever hides it on the way; no other row or earlier token has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, save_adapter

from genarm import GuidedDecoder, NumericalError
from genarm_kernels import reference
from genarm_kernels.layer.cpu import attention
from genarm_kernels.layer.lora import Lora, expand, expand_few

PROMPTS = random_prompts([6, 1, 9], seed=1)
OPTIONS: dict[str, Any] = {"max_new_tokens": 3, "temperature": 0.0, "eos_token_id": []}


@pytest.mark.parametrize(("family", "engine"), [("llama", "auto"), ("llama", "hf"), ("gemma2", "hf"), ("gpt2", "hf")])
@pytest.mark.parametrize("part", ["q", "k"])
def test_nan_in_the_queries_or_keys_alone_is_not_hidden_by_attention(
    part: str, family: str, engine: Any, cpu_path: str
) -> None:
    """torch's attention on a CPU makes 0 of a few scores that are all NaN."""
    reward = make_model(family, seed=2)
    name = {"gpt2": "h.1.attn.c_attn"}.get(family, f"layers.1.self_attn.{part}_proj")
    weight = next(tensor for key, tensor in reward.named_parameters() if key.endswith(f"{name}.weight"))
    with torch.no_grad():
        if family == "gpt2":
            weight[:, slice(0, 32) if part == "q" else slice(32, 64)] = torch.nan
        else:
            weight.fill_(torch.nan)
    base = make_model("llama", seed=1)
    short = [prompt[:4] for prompt in PROMPTS]
    with pytest.raises(NumericalError, match="new token 0: the logits of 'r' hold NaN") as caught:
        GuidedDecoder(base, {"r": reward}, engine=engine).generate(short, **OPTIONS | {"max_new_tokens": 2})
    assert list(caught.value.rows) == [0, 1, 2]


@pytest.mark.parametrize("lengths", [[4], [3, 3], [1, 2], [20]])
@pytest.mark.parametrize("part", ["q", "k"])
def test_nor_by_transformers_own_where_hooks_ask_for_it(part: str, lengths: list[int], cpu_path: str) -> None:
    model = make_model("llama", seed=2)
    with torch.no_grad():
        getattr(model.model.layers[1].self_attn, f"{part}_proj").weight.fill_(torch.nan)
    model.model.norm.register_forward_hook(lambda *_: None)
    decoder = GuidedDecoder(model)
    assert "padded" in decoder.engine.kind
    with pytest.raises(NumericalError, match="new token 0: the logits of 'base' hold NaN") as caught:
        decoder.generate(random_prompts(lengths, seed=1), **OPTIONS)
    assert list(caught.value.rows) == list(range(len(lengths)))


def test_nor_in_a_later_step(cpu_path: str) -> None:
    """One token alone has queries that are NaN."""
    model = make_model("llama", seed=2)
    calls = []

    def spoil(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(output.shape)
        return output * (torch.nan if len(calls) == 2 else 1.0)

    model.model.layers[1].self_attn.q_proj.register_forward_hook(spoil)
    with pytest.raises(NumericalError, match="new token 1: the logits of 'base' hold NaN"):
        GuidedDecoder(model).generate([[5, 6]], **OPTIONS)
    assert len(calls) > 1


@pytest.mark.parametrize("engine", ["auto", "hf"])
def test_nan_in_one_adapter_reaches_no_other_rows(engine: Any, tmp_path: Path, cpu_path: str) -> None:
    base = make_model("llama", seed=1)
    folders = {name: save_adapter(base, "llama", tmp_path / name, seed=seed) for seed, name in enumerate("ab")}
    decoder = GuidedDecoder(base, folders, engine=engine)
    expected = decoder.generate(PROMPTS, weights=[1.0, 0.0], **OPTIONS)
    adapter = decoder.models[2].adapter
    assert adapter is not None
    for down, up, _ in adapter.layers.values():
        for matrix in (down, up):
            matrix.fill_(torch.nan)
    decoder.refresh()
    assert torch.equal(decoder.generate(PROMPTS, weights=[1.0, 0.0], **OPTIONS).sequences, expected.sequences)
    weights = [[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
    found = decoder.generate(PROMPTS, weights=torch.tensor(weights), **OPTIONS)
    assert list(found.errors) == [1] and "'b'" in str(found.errors[1])
    assert torch.equal(found.sequences[0], expected.sequences[0])


@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("widths", [(6,), (4, 2)])
@pytest.mark.parametrize("where", ["up", "down"])
def test_an_expand_keeps_to_its_own_rows(where: str, widths: tuple[int, ...], rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    adapters = (torch.arange(rows) % 3 - 1).int()
    up = torch.randn(2, 6, 16, generator=generator)
    z = torch.randn(rows, 6 + 2 * 16 * len(widths), generator=generator)
    expected = expand(z, Lora(up, adapters, widths))
    if where == "up":
        up[1, 2] = torch.inf
        up[1, 3] = torch.nan
    else:
        z[:, 6 + 16 * len(widths) :] = torch.nan
    for expanded in (expand, expand_few):
        found = expanded(z, Lora(up, adapters, widths))
        others = adapters != 1
        torch.testing.assert_close(found[others], expected[others])
        assert not bool(found[~others].isfinite().all(1).any())


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("window", [0, 3])
def test_a_token_that_is_nan_leaves_earlier_ones_of_its_pass_alone(window: int, even: bool) -> None:
    lengths = torch.tensor([9, 9 if even else 6], dtype=torch.int32)
    query, keys, values = (torch.randn(2, n, heads, 8) for n, heads in ((4, 4), (12, 2), (12, 2)))
    keys[0, 7], values[0, 7] = torch.nan, torch.nan  # the third of the first row's four tokens
    query[1, 2, 1] = torch.nan
    found = attention(query, keys, values, lengths, 0.3, window, 9, even)
    keys[0, 7], values[0, 7] = 0.0, 0.0
    expected = reference.decode_attention(query, keys, values, lengths, 0.3, window).float()
    torch.testing.assert_close(found[0, :2], expected[0, :2])
    assert bool(found[0, 2:].isnan().all())
    assert torch.equal(found[1].isnan().any(-1), query[1].isnan().any(-1))


@pytest.mark.parametrize(("family", "engine"), [("llama", "auto"), ("llama", "hf"), ("gemma2", "hf")])
def test_so_does_one_that_is_appended_with_others(family: str, engine: Any, cpu_path: str) -> None:
    model = make_model(family, seed=1)
    with torch.no_grad():
        model.get_input_embeddings().weight[95] = torch.nan
        model.get_output_embeddings().weight = torch.nn.Parameter(torch.randn(97, 32))
    (backbone,) = GuidedDecoder(model, engine=engine).engine.backbones
    tokens = torch.tensor([[5, 6, 95, 7], [8, 9, 10, 11]])
    logits = []
    for ids in (tokens, tokens.where(tokens != 95, 12)):
        session = backbone.session(2, 20)
        session.prefill([PROMPTS[:2]])
        logits.append(session.append(ids)[0])
    torch.testing.assert_close(logits[0][0, :2], logits[1][0, :2])
    torch.testing.assert_close(logits[0][1], logits[1][1])
    assert bool(logits[0][0, 2:].isnan().all())
