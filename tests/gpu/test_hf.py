"""A transformers model on a GPU: full forward passes' logits, no waiting, and a step that a graph can replay."""

import pytest
import torch
from families import FAMILIES, make_model, random_prompts
from sessions import decode
from torch import Tensor

from genarm.models.causal import make_model as stream_model
from genarm.models.hf.session import HFBackbone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
LENGTHS = [5, 13, 1, 20]


def full_logits(plain: torch.nn.Module, rows: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.stack([plain(input_ids=row[None]).logits[0, -1] for row in rows])


def longer(rows: list[Tensor], tokens: Tensor) -> list[Tensor]:
    return [torch.cat([row, token[None]]) for row, token in zip(rows, tokens, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_full_forward_passes_and_wait_for_nothing(family: str) -> None:
    plain = make_model(family, seed=1).cuda()
    rows = [row.cuda() for row in random_prompts(LENGTHS, seed=1)]
    session = HFBackbone(stream_model("m", plain), 0).session(4, 40)
    found, prompts = session.prefill([rows]), rows
    tokens = torch.arange(5, 9, device="cuda")
    decode(session, tokens)  # compiles
    session.prefill([rows])
    torch.cuda.set_sync_debug_mode("error")
    try:
        found += [decode(session, tokens + step)[0] for step in range(6)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for step, logits in enumerate(found):
        torch.testing.assert_close(logits, full_logits(plain, prompts), atol=1e-3, rtol=0)
        prompts = longer(prompts, tokens + step)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_step_follows_its_lengths(family: str) -> None:
    plain = make_model(family, seed=1).cuda()
    rows = [row.cuda() for row in random_prompts(LENGTHS, seed=1)]
    session = HFBackbone(stream_model("m", plain), 0).session(4, 40)
    tokens = torch.arange(5, 9, device="cuda")
    session.prefill([rows])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        decode(session, tokens)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (logits,) = decode(session, tokens)
    for prompts in (rows, rows[::-1]):
        session.prefill([prompts])
        for step in range(5):
            tokens.copy_(torch.arange(5, 9) + step)
            graph.replay()
            prompts = longer(prompts, tokens)
            torch.testing.assert_close(logits, full_logits(plain, prompts), atol=1e-3, rtol=0)
