"""Token rewards as coloured text and as a page."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from genarm import GenerationOutput, GenerationStats
from genarm.evaluation.heatmap import TokenRewards, coloured, heatmap_html, token_rewards


class ByteTokenizer:
    """Decodes each id as one byte, so that a character can be split over tokens."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(i for i in ids if i > 2 or not skip_special_tokens).decode("utf-8", errors="replace")


def output_of(ids: list[int], logs: torch.Tensor | None) -> GenerationOutput:
    tokens = torch.tensor(ids)
    return GenerationOutput(
        sequences=tokens[None],
        tokens=[tokens],
        finish_reasons=["eos"],
        errors={},
        stats=GenerationStats(0, len(ids), len(ids), 0.0, 0.0),
        model_logprobs=logs,
        model_names=("base", "art", "risk"),
    )


def example(tokens: list[str], art: list[float], base: list[float]) -> TokenRewards:
    return TokenRewards("under art", "I ", tokens, base, {"art": art, "risk": [0.0] * len(tokens)})


def test_each_token_keeps_its_own_rewards() -> None:
    logs = torch.tensor([[[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0], [float("nan")] * 3]])
    row = token_rewards(output_of(list(b"ab"), logs), ByteTokenizer(), ["t"], ["p"])[0]
    assert row.tokens == ["a", "b"]
    assert row.base == [-1.0, -4.0]
    assert row.rewards == {"art": [-2.0, -5.0], "risk": [-3.0, -6.0]}
    assert row.mean_reward("art") == -3.5
    assert row.advantage("risk") == [-2.0, -2.0]


def test_a_character_split_over_tokens_is_shown_whole_and_special_tokens_not_at_all() -> None:
    ids = [*"aé→".encode(), 2]
    row = token_rewards(output_of(ids, torch.zeros(1, len(ids), 3)), ByteTokenizer(), ["t"], ["p"])[0]
    assert len(row.tokens) == len(ids)
    assert row.text == "aé→"
    assert not any("\ufffd" in token for token in row.tokens)


def test_an_output_without_log_probs_is_refused() -> None:
    with pytest.raises(ValueError, match="return_logprobs=True"):
        token_rewards(output_of([65], None), ByteTokenizer(), ["t"], ["p"])


def test_terminal_colours_run_from_orange_to_green() -> None:
    text = coloured(example(["good", "even", "bad"], [-1.0, -2.0, -9.0], [-9.0, -2.0, -1.0]), "art")
    assert text.plain == "I goodevenbad"
    colours = [tuple(map(int, re.findall(r"\d+", str(span.style)))) for span in text.spans if "rgb" in str(span.style)]
    (green, white, orange) = colours
    assert white == (255, 255, 255)
    assert green[1] > green[0] and orange[0] > orange[2]


def test_the_page_escapes_text_and_gives_every_token_its_figures() -> None:
    page = heatmap_html([example(["<b>", "x"], [-1.0, -2.0], [-3.0, -2.5])], {0: "art"}, "T & T")
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert "T &amp; T" in page
    hints: list[Any] = re.findall(r'title="(log[^"]+)"', page)
    assert hints == [
        "log π_r -1.00, log π_base -3.00, difference +2.00",
        "log π_r -2.00, log π_base -2.50, difference +0.50",
    ]
