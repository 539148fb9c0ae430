"""The speculation suite: drafts change no token of a case, and other tokens are noticed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from bench import speculation
from bench.copy_core import new_core
from bench.speculation import GUIDED, PLAIN, Case, Contender, measured
from genarm import GuidedDecoder


def test_the_smallest_case_runs_and_drafts_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    base, reward = new_core().eval(), new_core().eval()

    def build(case: Case) -> Mapping[str | None, GuidedDecoder]:
        return {None: GuidedDecoder(base, {}), "lora": GuidedDecoder(base, {"reward": reward})}

    monkeypatch.setattr(speculation, "build", build)
    drafted = Contender("lora", "ngram", 4)
    found = measured(Case("copy", "quoting", 0.0, (PLAIN, GUIDED, drafted), tokens=9, rounds=2))
    measured.cache_clear()
    assert len(found.rounds) == 2
    for figures in found.rounds:
        assert figures[GUIDED].drafted == 0
        assert figures[GUIDED].steps == 1
        assert figures[drafted].steps <= 1
    assert found.rounds[0][GUIDED].tokens != found.rounds[1][GUIDED].tokens  # of other prompts
    assert found.same(drafted) == 1
    assert found.source > 0.9


def test_other_tokens_with_drafts_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Out:
        def __init__(self, token: int) -> None:
            self.tokens = torch.tensor([[token]])

    monkeypatch.setattr(speculation, "decode", lambda case, contender, *_: Out(int(contender.draft is not None)))
    case = Case("copy", "quoting", 0.0, (GUIDED, Contender("lora", "ngram", 4)))
    with pytest.raises(AssertionError, match=r"guided\+ngram-4 decodes other tokens"):
        speculation.check_tokens(case, {}, torch.zeros(1, 1))
