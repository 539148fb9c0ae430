"""Token rewards as coloured text and as pages: what is said of each, and that texts stay texts."""

import re
from html import unescape

import pytest
import torch

from genarm import GenerationOutput, GenerationStats
from genarm.embedded import BASE
from genarm.evaluation.heatmap import (
    ScoredPair,
    TokenRewards,
    cells,
    coloured,
    heatmap_html,
    pairs_html,
    scored_pairs,
    strength,
    token_rewards,
)
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair


class ByteTokenizer:
    """Decodes each id as one byte, so that a character can be split over tokens."""

    def decode(self, ids, skip_special_tokens=True):
        return bytes(i for i in ids if i > 2 or not skip_special_tokens).decode("utf-8", errors="replace")


def rewards_of(ids, logs):
    tokens, stats = torch.tensor(ids), GenerationStats(0, len(ids), len(ids), 0.0, 0.0)
    named = {"model_logprobs": logs, "model_names": ("base", "art", "risk")}
    output = GenerationOutput(tokens[None], [tokens], finish_reasons=["eos"], errors={}, stats=stats, **named)
    return token_rewards(output, ByteTokenizer(), ["t"], ["p"])[0]


def example(tokens, art, base):
    return TokenRewards("under art", "I ", tokens, base, {"art": art, "risk": [0.0] * len(tokens)})


def test_each_token_keeps_its_own_rewards():
    logs = torch.tensor([[[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0], [float("nan")] * 3]])
    row = rewards_of(list(b"ab"), logs)
    assert (row.tokens, row.base) == (["a", "b"], [-1.0, -4.0])
    assert row.rewards == {"art": [-2.0, -5.0], "risk": [-3.0, -6.0]}
    assert row.mean_reward("art") == -3.5 and row.advantage("risk") == [-2.0, -2.0]
    with pytest.raises(ValueError, match="return_logprobs=True"):
        rewards_of([65], None)


def test_a_character_split_over_tokens_is_shown_whole_and_special_tokens_not_at_all():
    ids = [*"aé→".encode(), 2]
    row = rewards_of(ids, torch.zeros(1, len(ids), 3))
    assert len(row.tokens) == len(ids) and row.text == "aé→"
    assert not any("\ufffd" in token for token in row.tokens)


def test_colours_run_from_orange_to_green_are_full_at_four_nats_and_absent_for_nan():
    assert [strength(value) for value in (0.0, 2.0, 9.0, -9.0, float("nan"))] == [0.0, 0.5, 1.0, -1.0, 0.0]
    up, down = cells(["a", "b"], [-1.0, -4.0], [-2.0, -2.0])
    assert (up["side"], up["strength"]) == ("up", "0.25") and (down["side"], down["strength"]) == ("down", "0.50")
    text = coloured(example(["good", "even", "bad"], [-1.0, -2.0, -9.0], [-9.0, -2.0, -1.0]), "art")
    assert text.plain == "I goodevenbad"
    colours = [tuple(map(int, re.findall(r"\d+", str(span.style)))) for span in text.spans if "rgb" in str(span.style)]
    (green, white, orange) = colours
    assert white == (255, 255, 255) and green[1] > green[0] and orange[0] > orange[2]


def test_the_page_escapes_text_and_gives_every_token_its_figures():
    page = heatmap_html([example(["<b>", "x"], [-1.0, -2.0], [-3.0, -2.5])], {0: "art"}, "T & T")
    assert "&lt;b&gt;" in page and "<b>" not in page and "T &amp; T" in page
    assert re.findall(r'title="(log[^"]+)"', page) == [
        "log π_r -1.00, log π_base -3.00, difference +2.00",
        "log π_r -2.00, log π_base -2.50, difference +0.50",
    ]


def pair_of(*sides):
    return ScoredPair("Pair 1", *(TokenRewards("", "p", ["t"] * len(s), [-1.0] * len(s), {"art": s}) for s in sides))


def test_a_margin_is_of_sums_and_of_means():
    pair = pair_of([-2.0, -2.0, -2.0], [-5.0])
    assert pair.margin("art") == -1.0 and pair.mean_margin("art") == 3.0
    page = " ".join(pairs_html([pair, pair_of([-1.0], [-2.0])], "T").split())
    assert "orders 1 of 2 pairs" in page and "2 by mean" in page
    assert '"wrong">wrong by sum (-1.00)' in page and '"right">right by mean (+3.00)' in page
    assert "-6.00, -2.00 per token, 3 tokens" in page and "base Σ -3.00" in page


def test_pieces_join_to_the_texts_and_the_end_of_sequence_is_a_mark():
    tokenizer, text = pair_tokenizer(str(BASE)), PreferencePair("I ", "like <b>café</b> & 数学", "do\n  not")
    encoded = encode_pairs(tokenizer, [text]).pairs
    logs = [tuple(torch.full((len(encoded[0][side]),), -1.0) for side in ("chosen_ids", "rejected_ids"))]
    (pair,) = scored_pairs(tokenizer, encoded, ["Pair 1"], logs, {"art": logs})
    assert (pair.chosen.text, pair.rejected.text, pair.chosen.prompt) == (text.chosen, text.rejected, "I ")
    assert pair.chosen.marks == {len(encoded[0]["chosen_ids"]) - 1: "</s>"}
    shown = re.findall(r'<span class="token (\w+)( mark)?"[^>]*>([^<]*)</span>', pairs_html([pair], "T"))
    assert unescape("".join(part for _, mark, part in shown if not mark)) == text.chosen + text.rejected
    assert [part for _, mark, part in shown if mark] == ["&lt;/s&gt;"] * 2
