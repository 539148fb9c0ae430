"""The speculation suite: drafts change no token of a case, and other tokens are noticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from bench import speculation
from bench.copy_core import new_core
from bench.copy_text import circling, draw_texts
from bench.page import stale
from bench.speculation import GUIDED, PLAIN, Case, Contender, measured
from bench.tables import table
from genarm import GuidedDecoder

ROOT = Path(__file__).resolve().parents[2]


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


def test_texts_that_go_in_circles_do() -> None:
    generator = torch.Generator().manual_seed(0)
    quotations = draw_texts(8, 40, 8, generator).vivid
    rejected = circling(quotations, generator)
    for quotation, text in zip(quotations.tolist(), rejected.tolist(), strict=True):
        jump = next(place for place in range(len(text)) if text[place] in text[:place])
        assert text[:jump] == quotation[:jump]
        period = jump - text.index(text[jump])
        assert text[jump:] == text[jump - period : len(text) - period]


def test_the_page_has_the_figures_of_its_file() -> None:
    figures = table(ROOT / "bench" / "results" / "cpu-avx2" / "speculation.json")
    assert stale(ROOT / "docs" / "speculation.md", {"measured": figures}) == []
