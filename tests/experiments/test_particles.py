"""The study of particles: its metrics against enumeration, its judge, a small run of everything, and its page."""

import gzip
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.particles import __main__ as study
from experiments.particles import cells, decoding, judge, metrics, results
from experiments.particles.cells import Cell
from experiments.particles.gap import closed, left
from experiments.particles.matched import at_equal_share, sums
from experiments.particles.metrics import bigrams, difference, distinct, distinct_share

ROOT = Path(__file__).parents[2]


def rows(about, nats=2.0, tokens=4, answers=1):
    """Answers to one prompt, ``answers`` of each system."""
    return [
        {"prompt": 0, "system": n // answers, "about": bool(said), "base": -nats * tokens, "tokens": tokens}
        for n, said in enumerate(about)
    ]


@pytest.mark.parametrize("among", [1, 2, 4])
def test_distinct_items_are_counted_in_the_mean_over_all_choices_of_answers(among):
    items = [bigrams(text) for text in ("a b c", "a b", "b c a b", "a b c")]
    chosen = [list(itertools.chain(*some)) for some in itertools.combinations(items, among)]
    expected = np.mean([len(set(own)) for own in chosen]) / np.mean([len(own) for own in chosen])
    assert distinct_share(items, among) == pytest.approx(expected)
    assert np.isnan(distinct_share([[], []], 1))


def test_the_interval_of_distinct_texts_covers_their_expected_share_as_often_as_it_says():
    chances = np.array([0.4, 0.3, 0.1, *[0.02] * 10])
    truth = (1 - (1 - chances) ** 8).sum() / 8
    draw, hits = np.random.default_rng(0), 0
    for _ in range(50):
        texts = draw.choice(len(chances), p=chances, size=(6, 16))
        answers = [
            {"prompt": p, "system": s, "text": str(texts[p, s]) if first else "never the first"}
            for p in range(6)
            for s in range(16)
            for first in (True, False)
        ]
        found = distinct(answers, lambda text: [text], 8)
        hits += found.low <= truth <= found.high
    assert hits >= 44 and distinct(answers, lambda text: [text], 17) is None


def test_answers_of_one_system_are_resampled_together():
    said = np.random.default_rng(0).random(64) < 0.5
    apart, plain = rows(np.repeat(said, 8)), rows([False] * 8)
    together = rows(np.repeat(said, 8), answers=8)
    found = [difference(own, plain, "about") for own in (apart, together)]
    widths = [one.high - one.low for one in found]
    assert found[0].value == found[1].value == said.mean() and widths[1] > 2 * widths[0]
    assert difference(rows([1], 2.5), rows([1], 3.0, tokens=9), "base", "tokens").value == pytest.approx(0.5)


def test_the_gap_left_is_in_the_mean_over_prompts():
    plain, particles = [[-30.0, -34.0], [-12.0, -16.0]], [[-11.0, -13.0], [-9.0, -11.0]]
    assert closed(plain, particles).value == 12
    found = left([-10.0, -9.0], plain, particles)
    assert (found["plain"]["value"], found["left"]["value"]) == (13.5, 1.5)
    assert found["share"]["low"] <= found["share"]["value"] == pytest.approx(1.5 / 13.5, abs=1e-6)
    assert found["by_prompt"] == [[22, 2], [5, 1]]


def test_plain_decoding_is_read_off_where_it_is_on_topic_as_often():
    def share(count):
        return np.arange(100) < count

    curve = [(w, sums(rows(share(s), n), i)) for i, (w, s, n) in enumerate([(0.5, 20, 2), (1.0, 60, 3), (2.0, 50, 4)])]
    found = at_equal_share(curve, sums(rows(share(40), 2.2), 9))
    assert found["weight"] == 0.75 and found["base_nats"]["value"] == pytest.approx(2.5)
    less = found["nats_less"]
    assert less["low"] < less["value"] == pytest.approx(-0.3) and less["low"] > -0.7
    assert at_equal_share(curve, sums(rows(share(70)), 9)) is None
    assert at_equal_share(curve, sums(rows(share(10)), 9)) is None


def test_best_of_n_has_the_largest_reward_of_each_n_draws_of_a_prompt():
    own = [{"prompt": p, "system": s, "reward": float((7 * s + 3 * p) % 5)} for p in range(2) for s in range(4)]
    found = decoding.best_of({"rows": own, "seconds": 8.0}, 2)
    best = [max(own[start : start + 2], key=lambda row: row["reward"])["reward"] for start in (0, 2, 4, 6)]
    assert [row["reward"] for row in found["rows"]] == best and found["seconds"] == 8.0
    assert [(row["prompt"], row["system"]) for row in found["rows"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def write_statements(folder, texts, split) -> None:
    """(statement, persona, whether they would say it) rows."""
    (folder / "persona").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"statement": s, "persona": p, "matches": m}) for s, p, m in texts]
    (folder / "persona" / f"statements.{split}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def test_the_judge_is_judged_on_held_out_statements(tmp_path):
    art, other = judge.PERSONA, "interest-in-sports"
    long = "which I have been doing for as long as I can"
    said = [("I paint", art, True), (f"I draw {long}", art, True), ("I paint badly", art, False)]
    said += [(f"I paint fences {long}", other, True), *[(f"I run {n}", other, True) for n in range(4)]]
    write_statements(tmp_path, said, "test")
    painter = SimpleNamespace(predict=lambda texts: ["paint" in text for text in texts])
    found = judge.quality(painter, tmp_path)
    values = [found["all"][name]["value"] for name in ("recall", "precision", "said of others")]
    assert values == pytest.approx([1 / 2, 1 / 3, 2 / 6], abs=1e-6)
    assert found["at most 8 words"]["statements"] == 6 and found["at most 8 words"]["recall"]["value"] == 1
    assert found["all"]["said of those against it"]["value"] == 1


def test_the_study_runs_from_data_to_tables_and_goes_on_where_it_was_left(tmp_path, monkeypatch, capsys):
    art = [(f"I love art {n}", judge.PERSONA, True) for n in range(3)]
    for split in ("train", "test"):
        write_statements(tmp_path, [*art, *[(f"I run {n}", "interest-in-sports", True) for n in range(3)]], split)
    monkeypatch.setattr(cells, "WEIGHTS", (0.5,))
    monkeypatch.setattr(cells, "SYSTEMS", {1: 2, 4: 1})
    monkeypatch.setattr(cells, "BEST_OF_ANSWERS", 1)
    monkeypatch.setattr(cells, "BONUSES", {4: {0.5: (3.0,)}})
    monkeypatch.setattr(cells, "EVIDENCE_PARTICLES", 32)
    for module in (cells, results):
        monkeypatch.setattr(module, "FILTERS", (0.0,))
        monkeypatch.setattr(module, "BEST_OF", 2)
        monkeypatch.setattr(module, "BEST_OF_WEIGHTS", (0.5,))
    monkeypatch.setattr(metrics, "AMONG", 2)
    for module in (decoding, study):
        monkeypatch.setattr(module, "NEW_TOKENS", 3)
    for module in (cells, decoding):
        monkeypatch.setattr(module, "PROMPTS", ("I", "On"))
    command = ["--output", str(tmp_path / "out")]
    assert study.main(["--data", str(tmp_path), *command]) == 0
    figures = json.loads((tmp_path / "out" / study.FILE).read_text())
    assert [(row["weight"], row["particles"], row["answers"]) for row in figures["points"]] == [
        (0.0, 1, 4),
        (0.5, 1, 4),
        (0.5, 4, 16),
    ]
    assert figures["gaps"][0]["log_z_from"] == 32 and figures["judge"]["all"]["recall"]["value"] == 1
    assert capsys.readouterr().out.count(" s\n") == 6
    plain = Cell(0.5, 0.0, 1, 2)
    kept = json.loads((tmp_path / "out/settings" / f"{plain.name}-round-0.json").read_text())
    decoder = decoding.load_decoder()
    call = {"weights": {"art": 0.5}, "max_new_tokens": 3, "seed": 1}
    out = decoder.generate(["I", "I", "On", "On"], return_normalizers=True, **call)
    exact = out.log_normalizers.double().nansum(1)
    assert [one for own in kept["evidence"] for one in own] == pytest.approx(exact.tolist(), abs=1e-4)
    one = decoder.generate(["I", "I", "On", "On"], particles=1, **call)
    assert one.log_evidence.tolist() == pytest.approx(exact.tolist(), abs=1e-4)

    (tmp_path / "out/settings" / f"{plain.name}-round-0.json").unlink()
    assert study.main(["--data", str(tmp_path), *command]) == 0
    shown = capsys.readouterr().out
    assert shown.count(" s\n") == 1
    picture = tmp_path / "picture.png"
    assert study.main([*command, "--picture", str(picture)]) == 0 and capsys.readouterr().out.strip() in shown
    assert picture.stat().st_size > 10_000
    with pytest.raises(ValueError, match="holds 2 systems per prompt, not 3"):
        decoding.one_round(
            tmp_path / "out/settings", Cell(0.5, 0.0, 1, 3), 0, decoding.load_decoder, lambda texts: texts
        )


def test_the_page_has_the_figures_of_its_file(capsys):
    assert study.main(["--output", str(ROOT / "bench/results/cpu")]) == 0
    page = (ROOT / "docs/particles.md").read_text(encoding="utf-8")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) > 80 and [line for line in lines if line not in page] == []
    assert (ROOT / "docs/particles-frontier.png").stat().st_size > 10_000


def test_the_readme_has_the_figures_of_the_demos_prompts():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    plain, four = json.loads((ROOT / "bench/results/cpu/particles.json").read_text())["demo"]

    def said(name: str, form: str, scale: float = 1.0) -> tuple[str, str]:
        return tuple(format(scale * one[name]["value"], form) for one in (four, plain))

    about, nats, tokens = said("about", ".0f", 100), said("base_nats", ".2f"), said("tokens", ".0f")
    assert f"{about[0]} % of answers to the demo's prompts are about art instead of {about[1]} %" in text
    assert (
        f"at {nats[0]} base nats per token instead of {nats[1]}, in {tokens[0]} tokens instead of {tokens[1]}" in text
    )
