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

VOCAB, SEEDS, PROMPT = 6, 6000, [1, 3, 4]


def exact(base: Any, reward: Any) -> Tensor:
    """[V³] float64: the guided probability of every first three tokens."""
    texts = torch.cartesian_prod(*[torch.arange(VOCAB)] * 3)
    ids = torch.cat([torch.tensor(PROMPT).expand(len(texts), -1), texts], 1)
    with torch.no_grad():
        scores = sum(model(ids).logits.double() for model in (base, reward))
    steps = torch.log_softmax(torch.as_tensor(scores)[:, len(PROMPT) - 1 : -1], 2)
    return steps.gather(2, texts[:, :, None]).sum((1, 2)).exp()


@pytest.mark.parametrize("takes_any_draft", [False, True], ids=["as it is", "every draft is taken"])
def test_a_biased_draft_leaves_the_distribution_alone(takes_any_draft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts that are taken for having been drafted, which follow the draft's distribution, fail the same check."""
    base, reward, draft = (make_model("llama", seed=seed, hidden=16, layers=1, vocab=VOCAB) for seed in (1, 2, 3))
    decoder = GuidedDecoder(base, {"r": reward}, max_batch_size=SEEDS)
    accept = genarm_kernels.accept

    def takes_all(sample: Any, drafts: Tensor, proposed: Tensor, texts: Any) -> Tensor:
        drawn = sample.tokens.view(len(drafts), -1).clone()
        drawn[:, :-1] = drafts
        return accept(sample._replace(tokens=drawn.flatten()), drafts, proposed, texts)

    if takes_any_draft:
        monkeypatch.setattr(state, "accept", takes_all)
    speculate = {"draft": draft, "gamma": 2}
    out = decoder.generate([PROMPT] * SEEDS, max_new_tokens=3, eos_token_id=[], seed=11, speculate=speculate)
    texts = torch.stack(out.tokens)
    found = (texts * torch.tensor([VOCAB**2, VOCAB, 1])).sum(1)
    (assert_not_drawn_from if takes_any_draft else assert_drawn_from)(found, exact(base, reward))
    assert out.stats.accepted > SEEDS / 4, "the draft is right now and then, and so has a say if anything is wrong"
