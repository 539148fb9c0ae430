"""The demo on the embedded models, cut short."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from genarm import GenARMError
from genarm.cli import demo
from genarm.embedded import REWARDS


@pytest.fixture
def short_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COPIES", 4)
    monkeypatch.setattr(demo, "NEW_TOKENS", 16)
    monkeypatch.setattr(demo, "SWEEP", (0.0, 1.0))


def test_the_demo_shows_texts_and_rewards_and_writes_a_page_a_plot_and_figures(
    short_demo: None, tmp_path: Path
) -> None:
    screen = io.StringIO()
    demo.run_demo(tmp_path / "new" / "out", console=Console(file=screen, width=140))
    shown = screen.getvalue()
    for prompt in demo.PROMPTS:
        assert shown.count(prompt) > len(demo.SETTINGS) // 2
    assert "tokens/s" in shown and "change against the base" in shown
    out = tmp_path / "new" / "out"
    assert (out / "reward_vs_weight.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "heatmap.html").read_text(encoding="utf-8")
    assert page.count('class="row"') == len(demo.PROMPTS) * len(demo.SETTINGS)
    record = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    rewards = record["mean_reward_nats_per_token"]
    for name in REWARDS:  # each reward model raises its own reward, beyond the interval
        assert rewards[name][name][0] - rewards[name][name][1] > rewards["base"][name][0]
        low, high = (record["reward_against_weight"][name][weight][0] for weight in ("0.0", "1.0"))
        assert high > low


def test_an_output_folder_that_cannot_be_made_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GenARMError, match="pass another --output"):
        demo.run_demo(tmp_path / "file" / "out")
