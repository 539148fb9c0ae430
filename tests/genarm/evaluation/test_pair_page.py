"""The page of pairs: what it says of each, and that texts stay texts."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from genarm.cli import app
from genarm.embedded import BASE
from genarm.evaluation.heatmap import ScoredPair, TokenRewards, cells, pairs_html, scored_pairs, strength
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair

REWARDS = ["evaluate", "rewards", "--device", "cpu"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return pair_tokenizer(str(BASE))


def pair_of(chosen: list[float], rejected: list[float]) -> ScoredPair:
    sides = [TokenRewards("", "p", ["t"] * len(logs), [-1.0] * len(logs), {"art": logs}) for logs in (chosen, rejected)]
    return ScoredPair("Pair 1", *sides)


def test_a_margin_is_of_sums_and_of_means() -> None:
    pair = pair_of([-2.0, -2.0, -2.0], [-5.0])
    assert pair.margin("art") == -1.0 and pair.mean_margin("art") == 3.0
    page = pairs_html([pair, pair_of([-1.0], [-2.0])], "T")
    assert "orders 1 of 2 pairs" in page and "2 by mean" in page
    assert re.search(r'"wrong">wrong by sum\s+\(-1\.00\)', page) and re.search(
        r'"right">right by mean\s+\(\+3\.00\)', page
    )
    assert "-6.00, -2.00 a token, 3 tokens" in page.replace("\n", " ") and "base Σ -3.00" in page


def test_colours_are_full_at_four_nats_and_absent_for_nan() -> None:
    assert [strength(value) for value in (0.0, 2.0, 9.0, -9.0, float("nan"))] == [0.0, 0.5, 1.0, -1.0, 0.0]
    up, down = cells(["a", "b"], [-1.0, -4.0], [-2.0, -2.0])
    assert (up["side"], up["strength"]) == ("up", "0.25") and (down["side"], down["strength"]) == ("down", "0.50")


def test_pieces_join_to_the_texts_and_the_end_of_sequence_is_a_mark(tokenizer: Any) -> None:
    texts = [PreferencePair("I ", "like <b>café</b> & 数学", "do\n  not")]
    encoded = encode_pairs(tokenizer, texts).pairs
    logs = [tuple(torch.full((len(encoded[0][side]),), -1.0) for side in ("chosen_ids", "rejected_ids"))]
    (pair,) = scored_pairs(tokenizer, encoded, ["Pair 1"], logs, {"art": logs})  # type: ignore[arg-type]
    assert (pair.chosen.text, pair.rejected.text, pair.chosen.prompt) == (texts[0].chosen, texts[0].rejected, "I ")
    assert pair.chosen.marks == {len(encoded[0]["chosen_ids"]) - 1: "</s>"}
    page = pairs_html([pair], "T")
    shown = re.findall(r'<span class="token (\w+)( mark)?"[^>]*>([^<]*)</span>', page)
    assert unescape("".join(text for _, mark, text in shown if not mark)) == texts[0].chosen + texts[0].rejected
    assert [text for _, mark, text in shown if mark] == ["&lt;/s&gt;"] * 2


def test_the_command_writes_one_page_without_scripts(
    pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    chosen = ["--reward", "art", "--reward", "risk", "--data", str(pairs_file), "--output", str(page)]
    assert app.main([*REWARDS, *chosen]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"art: [45] of 5 pairs ordered right", printed) and str(page) in printed
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;" in text and "http" not in text
    assert text.count('class="pair"') == 5 and text.count('class="side"') == 5 * 2 * 2
    assert "prefers-color-scheme: dark" in text


def test_two_given_texts_make_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    texts = ["--prompt", "I", "--chosen", " love painting", "--rejected", " love money"]
    assert app.main([*REWARDS, "--reward", "art", *texts, "--output", str(page)]) == 0
    assert "art: 1 of 1 pairs" in capsys.readouterr().out
    assert '<div class="prompt">I</div>' in page.read_text(encoding="utf-8")


def test_limit_and_where_choose_the_pairs(pairs_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    data = ["--data", str(pairs_file), "--where", "kind=stance", "--limit", "1"]
    assert app.main([*REWARDS, "--reward", "art", *data, "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('class="pair"') == 1 and "boring" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "FILE"], "give --reward"),
        (["--reward", "art"], "give --data FILE, or --chosen TEXT"),
        (["--reward", "art", "--chosen", "a"], "give --data FILE, or --chosen TEXT"),
        (["--reward", "art", "--chosen", "a", "--rejected", "a"], "two texts that differ"),
        (["--reward", "art", "--data", "FILE", "--chosen", "a"], "choose one of them"),
        (["--reward", "art", "--data", "no/such.jsonl"], "no such file"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_status_2(
    arguments: list[str], words: str, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(pairs_file) if text == "FILE" else text for text in arguments]
    assert app.main([*REWARDS, *given, "--output", str(tmp_path / "page.html")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err
