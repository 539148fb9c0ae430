"""The first tokens of many seeds under a biased draft, against their exact joint distribution by enumeration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chi_square import assert_drawn_from, assert_not_drawn_from
from families import make_model
from torch import Tensor

import genarm_kernels
from genarm import GuidedDecoder
from genarm.engine import state
from genarm.engine.draft import Chain, Proposal

VOCAB, SEEDS, PROMPT = 6, 4000, [1, 3, 4]
MUTANTS = ["as it is", "taken by the draft's probability", "always taken"]


def exact(base: Any, reward: Any) -> Tensor:
    """[V³] float64: the guided probability of every first three tokens."""
    texts = torch.cartesian_prod(*[torch.arange(VOCAB)] * 3)
    ids = torch.cat([torch.tensor(PROMPT).expand(len(texts), -1), texts], 1)
    with torch.no_grad():
        scores = sum(model(ids).logits.double() for model in (base, reward))
    steps = torch.log_softmax(torch.as_tensor(scores)[:, len(PROMPT) - 1 : -1], 2)
    return steps.gather(2, texts[:, :, None]).sum((1, 2)).exp()


def take_drafts(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept a draft whatever was drawn: always, or as often as the draft model would draw it."""
    accept, propose = genarm_kernels.accept, Chain.propose
    taken: list[Tensor] = []  # [B, gamma] bool, of the step that is on its way

    def noted(chain: Chain, gamma: int) -> Proposal:
        proposal = propose(chain, gamma)
        ((logits,),) = proposal.known.values()
        own = logits[:, :gamma].softmax(2).gather(2, proposal.tokens[:, :, None])[:, :, 0]
        coins = torch.rand(own.shape, generator=torch.Generator().manual_seed(len(taken)))
        taken.append(coins < (own if mutant == MUTANTS[1] else 1.0))
        return proposal

    def takes(sample: Any, drafts: Tensor, proposed: Tensor, texts: Any) -> Tensor:
        drawn = sample.tokens.view(len(drafts), -1).clone()
        if drafts.shape[1]:
            drawn[:, :-1] = torch.where(taken[-1], drafts, drawn[:, :-1])
        return accept(sample._replace(tokens=drawn.flatten()), drafts, proposed, texts)

    monkeypatch.setattr(Chain, "propose", noted)
    monkeypatch.setattr(state, "accept", takes)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_biased_draft_leaves_the_distribution_alone(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts that are taken for what the draft model says of them, whose distribution that lets in, fail the check."""
    base, reward, draft = (make_model("llama", seed=seed, hidden=16, layers=1, vocab=VOCAB) for seed in (1, 2, 3))
    draft.lm_head.weight.data.mul_(5.0)  # it is sure of what the product is not
    decoder = GuidedDecoder(base, {"r": reward}, max_batch_size=SEEDS)
    if mutant != MUTANTS[0]:
        take_drafts(mutant, monkeypatch)
    speculate = {"draft": draft, "gamma": 2}
    out = decoder.generate([PROMPT] * SEEDS, max_new_tokens=3, eos_token_id=[], seed=11, speculate=speculate)
    texts = torch.stack(out.tokens)
    found = (texts * torch.tensor([VOCAB**2, VOCAB, 1])).sum(1)
    (assert_drawn_from if mutant == MUTANTS[0] else assert_not_drawn_from)(found, exact(base, reward))
    assert out.stats.accepted > SEEDS / 4, "the draft is right now and then, and so has a say if anything is wrong"
