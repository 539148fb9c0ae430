"""A transformers model's steps by the kernel: full forward passes' logits, no waiting, and graphs that replay them."""

from typing import Any

import pytest
import torch
from families import FAMILIES, make_model, random_prompts
from gpu_cases import captured, waiting_for_nothing
from sessions import decode
from torch import Tensor

from genarm.models.causal import make_model as stream_model
from genarm.models.hf import attention
from genarm.models.hf.session import HFBackbone

LENGTHS = [5, 13, 1, 20]


def full_logits(plain: torch.nn.Module, rows: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.stack([plain(input_ids=row[None]).logits[0, -1] for row in rows])


def longer(rows: list[Tensor], tokens: Tensor) -> list[Tensor]:
    return [torch.cat([row, token[None]]) for row, token in zip(rows, tokens, strict=True)]


@pytest.mark.device
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_full_forward_passes_and_wait_for_nothing(family: str) -> None:
    plain = make_model(family, seed=1).cuda()
    rows = [row.cuda() for row in random_prompts(LENGTHS, seed=1)]
    session = HFBackbone(stream_model("m", plain), 0).session(4, 40)
    found, prompts = session.prefill([rows]), rows
    tokens = torch.arange(5, 9, device="cuda")
    decode(session, tokens)  # compiles
    session.prefill([rows])
    with waiting_for_nothing():
        found += [decode(session, tokens + step)[0] for step in range(6)]
    for step, logits in enumerate(found):
        torch.testing.assert_close(logits, full_logits(plain, prompts), atol=1e-3, rtol=0)
        prompts = longer(prompts, tokens + step)


@pytest.mark.device
@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_step_follows_its_lengths(family: str) -> None:
    plain = make_model(family, seed=1).cuda()
    rows = [row.cuda() for row in random_prompts(LENGTHS, seed=1)]
    session = HFBackbone(stream_model("m", plain), 0).session(4, 40)
    tokens = torch.arange(5, 9, device="cuda")
    session.prefill([rows])
    graph, (logits,) = captured(lambda: decode(session, tokens))
    for prompts in (rows, rows[::-1]):
        session.prefill([prompts])
        for step in range(5):
            tokens.copy_(torch.arange(5, 9) + step)
            graph.replay()
            prompts = longer(prompts, tokens)
            torch.testing.assert_close(logits, full_logits(plain, prompts), atol=1e-3, rtol=0)


@pytest.mark.interpreter
@pytest.mark.parametrize(("family", "kernel"), [("llama", True), ("mistral", True), ("gpt2", True), ("gemma2", False)])
def test_steps_by_the_kernel_are_full_forward_passes(
    family: str, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    own = attention.decode_attention

    def counted(query: Any, key: Any, *args: Any) -> Any:
        calls.append(key.shape[1])
        return own(query, key, *args)

    monkeypatch.setattr(attention, "decode_attention", counted)
    plain = make_model(family, seed=1)
    session = HFBackbone(stream_model("m", plain), 0).session(3, 24)
    rows = random_prompts([5, 12, 1], seed=1)
    (logits,) = session.prefill([rows])
    for token in range(5, 7):
        with torch.no_grad():
            expected = torch.stack([plain(input_ids=row[None]).logits[0, -1] for row in rows])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        (logits,) = decode(session, torch.full((3,), token))
        rows = [torch.cat([row, torch.tensor([token])]) for row in rows]
    assert len(calls) == (2 * 2 if kernel else 0)
