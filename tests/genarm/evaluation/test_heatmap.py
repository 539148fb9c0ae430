"""Token rewards as coloured text and as pages: what is said of each, and that texts stay texts."""

import math
import re
from html import unescape

import pytest
import torch

from genarm import GenerationOutput, GenerationStats
from genarm.embedded import BASE
from genarm.evaluation.heatmap import (
    ScoredPair,
    TokenRewards,
    coloured,
    heatmap_html,
    pairs_html,
    scale_of,
    scored_pairs,
    token_rewards,
)
from genarm.evaluation.pages import cells
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair
from genarm.request.scale import Scale


class ByteTokenizer:
    """Decodes each id as one byte, so that a character can be split over tokens."""

    all_special_ids = (1, 2)

    def decode(self, ids, skip_special_tokens=True):
        return bytes(i for i in ids if i > 2 or not skip_special_tokens).decode("utf-8", errors="replace")

    def convert_ids_to_tokens(self, token):
        return f"<{token}>"


def rewards_of(ids, logs):
    tokens, stats = torch.tensor(ids), GenerationStats(0, len(ids), len(ids), 0.0, 0.0)
    drawn = None if logs is None else logs[..., 0] + 1.5
    named = {"logprobs": drawn, "model_logprobs": logs, "model_names": ("base", "art", "risk")}
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
    assert row.mean_advantage("art") == -1.0 and row.divergence() == 1.5
    with pytest.raises(ValueError, match="return_logprobs=True"):
        rewards_of([65], None)


def test_a_character_split_over_tokens_is_shown_whole_and_special_tokens_by_their_name():
    ids = [*"aé→".encode(), 2]
    row = rewards_of(ids, torch.zeros(1, len(ids), 3))
    assert len(row.tokens) == len(ids) and row.text == "aé→"
    assert not any("\ufffd" in token for token in row.tokens)
    assert row.marks == {len(ids) - 1: "<2>"}


def test_colours_fit_the_values_shown():
    scale = Scale.of([float("nan"), *range(-20, 21), float("nan")])
    assert [scale.strength(value) for value in (0.0, 9.0, 18.0, 30.0, -9.0, -50.0, float("nan"))] == [
        0.0,
        0.5,
        1.0,
        1.0,
        -0.5,
        -1.0,
        0.0,
    ]
    far = Scale.of(value - 100.0 for value in range(-20, 21))  # all far below 0, and yet not all of one colour
    assert (far.strength(-91.0), far.strength(-109.0), far.quantile(0.5)) == (0.5, -0.5, -100.0)
    skewed = Scale.of([-16.0, -8.0, 0.0, 1.0, 2.0])
    assert skewed.strength(-8.0) == pytest.approx(-skewed.strength(1.0), abs=0.05)
    infinite = Scale.of([-math.inf, -math.inf, 0.0, 1.0, 2.0])
    assert infinite.strength(-math.inf) == -1.0 and infinite.strength(2.0) == 1.0
    for flat in (Scale.of([3.0, 3.0]), Scale.of([])):
        assert flat.strength(flat.quantile(0.5)) == 0.0
        assert (flat.strength(4.0), flat.strength(-1.0)) == (1.0, -1.0)


def test_a_side_is_said_by_more_than_its_colour():
    scale = Scale.of([-2.0, 0.0, 1.0])
    up, even, down = cells(["a", "b", "c"], [-1.0, -2.0, -4.0], [-2.0, -2.0, -2.0], scale)
    assert [cell["side"] for cell in (up, even, down)] == ["up", "even", "down"]
    page = heatmap_html([(example(["good", "bad"], [-1.0, -9.0], [-9.0, -1.0]), "art")], "T", "base")
    assert re.search(r"\.up {[^}]*solid", page) and re.search(r"\.down {[^}]*dotted", page)
    row = example(["good", "even", "bad"], [-1.0, -2.0, -9.0], [-9.0, -2.0, -1.0])
    text = coloured(row, "art", scale_of([(row, "art")]))
    assert text.plain == "I goodevenbad"
    spans = [str(span.style) for span in text.spans if "rgb" in str(span.style)]
    assert ["underline" in span for span in spans] == [True, False, False]
    blue, white, orange = [tuple(map(int, re.findall(r"\d+", span))) for span in spans]
    assert white == (255, 255, 255) and blue[2] > blue[0] and orange[0] > orange[2]


def test_the_page_escapes_text_and_gives_every_token_its_figures():
    row = example(["<b>", "x"], [-1.0, -2.0], [-3.0, -2.5])
    page = heatmap_html([(row, "art")], "T & T", "base", {'a "plot"': b"png"})
    assert "&lt;b&gt;" in page and "<b>" not in page and "T &amp; T" in page
    assert '<img src="data:image/png;base64,cG5n" alt="a &#34;plot&#34;">' in page
    assert re.findall(r'title="(log[^"]+)"', page) == [
        "log π_r −1.00, log π_base −3.00, difference +2.00",
        "log π_r −2.00, log π_base −2.50, difference +0.50",
    ]


def test_the_page_is_sorted_by_prompt_and_its_figure_is_what_is_coloured():
    def row(title, prompt, art):
        return TokenRewards(title, prompt, ["t", ""], [-2.0, -2.0], {"art": art, "risk": [-2.0, -2.0]}, {1: "</s>"})

    views = [
        (row("base", "I", [-9.0, -7.0]), "art"),
        (row("base", "My", [-3.0, -3.0]), "art"),
        (row("art", "I", [-1.0, -2.0]), "art"),
        (row("art", "I", [-1.0, -2.0]), "risk"),
        (row("art", "My", [-1.0, -1.0]), "art"),
    ]
    page = " ".join(heatmap_html(views, "T", "base").split())
    assert re.findall(r"<h2>“(\w+) …”|by (\w+: [^<]*)<", page) == [
        ("I", ""),
        ("", "art: −6.00 nats per token"),
        ("", "art: +0.50 nats per token; without guidance −6.00"),
        ("", "risk: +0.00 nats per token; without guidance +0.00"),
        ("My", ""),
        ("", "art: −1.00 nats per token"),
        ("", "art: +1.00 nats per token; without guidance −1.00"),
    ]
    assert page.count("&lt;/s&gt;") == 5  # the end is a token that was drawn, and has a reward


def pair_of(*sides):
    return ScoredPair("Pair 1", *(TokenRewards("", "p", ["t"] * len(s), [-1.0] * len(s), {"art": s}) for s in sides))


def test_a_margin_is_of_sums_and_of_means():
    pair = pair_of([-2.0, -2.0, -2.0], [-5.0])
    assert pair.margin("art") == -1.0 and pair.mean_margin("art") == 3.0
    page = " ".join(pairs_html([pair, pair_of([-1.0], [-2.0])], "T").split())
    assert "orders 1 of 2 pairs" in page and "2 by mean" in page
    assert '"wrong">wrong by sum (−1.00)' in page and '"right">right by mean (+3.00)' in page
    assert "−6.00, −2.00 per token, 3 tokens" in page and "base Σ −3.00, difference −1.00 per token" in page


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
