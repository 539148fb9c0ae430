"""The study of decoding methods: its data, and the page that it writes."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.comparison.data import HELD_OUT, PROMPTS, TRAIN, openings, read, split
from experiments.comparison.report import PAGE, write_page
from genarm.comparison.config import read_comparison

ROOT = Path(__file__).parents[2]


def test_the_halves_share_no_chosen_statement_and_prompts_are_of_held_out_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = split(tmp_path)
    methods, judge = read(files["methods"]), read(files["judge"])
    assert not {row["chosen"] for row in methods} & {row["chosen"] for row in judge}
    assert len(methods) + len(judge) == len(read(TRAIN))
    assert read(files["swapped"])[0]["chosen"] == methods[0]["rejected"]
    assert read(PROMPTS) == openings(read(HELD_OUT))[:100] and len({row["prompt"] for row in read(PROMPTS)}) == 100


def test_every_method_there_is_is_compared(tmp_path):
    from genarm.methods import names

    text = (ROOT / "examples/compare.toml").read_text()
    for folder in ("arm", "anti-arm", "dpo", "judge", "trajectory-rm", "value"):
        (tmp_path / "out/compare/models" / folder).mkdir(parents=True)
    for place in ("examples", "genarm/assets/base"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "examples/compare.toml").write_text(text)
    comparison = read_comparison(tmp_path / "examples/compare.toml")
    # Particles are set against the others in a study of their own (experiments/particles).
    assert {method.method for method in comparison.methods} == set(names()) - {"particles"}


def test_the_page_is_filled_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text((ROOT / PAGE).read_text())
    record = {
        "methods": [{"label": "genarm", "seconds": 2.0}, {"label": "args", "seconds": 5.0}],
        "versions": {"torch": "2"},
    }
    (tmp_path / "compare.json").write_text(json.dumps(record))
    (tmp_path / "compare.md").write_text("| a table |\n")
    accuracy = {"value": 0.9, "low": 0.8, "high": 1.0}
    models = {"scorers": [{"name": "judge", "kind": "trajectory-rm", "reduction": "score", "accuracy": accuracy}]}
    for _ in range(2):
        write_page(tmp_path, models, page)
    text = page.read_text()
    assert text.count("| a table |") == 1 and "| judge | trajectory-rm | 90.0 [80.0, 100.0] |" in text
    assert "| args | 5.00 | 2.50 | 7.74 | 1.06 |" in text and "| cards | – | – | 87.09 | 11.96 |" in text
