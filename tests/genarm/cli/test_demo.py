"""The demo on the embedded models, cut short."""

import io
import json

from rich.console import Console

from genarm.cli import demo
from genarm.embedded import REWARDS


def test_the_demo_shows_texts_and_rewards_and_writes_a_page_a_plot_and_figures(monkeypatch, tmp_path):
    for name, value in {"COPIES": 4, "SWEEP_COPIES": 4, "NEW_TOKENS": 12, "SWEEP": (0.0, 1.0)}.items():
        monkeypatch.setattr(demo, name, value)
    screen, out = io.StringIO(), tmp_path / "new" / "out"
    demo.run_demo(out, console=Console(file=screen, width=80))
    shown = screen.getvalue()
    for prompt in demo.PROMPTS:
        assert shown.count(prompt) > len(demo.SETTINGS) // 2
    assert "tokens/s" in shown and "change against the base" in shown
    table = shown[shown.index("change against the base") :].splitlines()
    lines = [line for line in table if line.startswith("│")]
    assert len(lines) == len(demo.SETTINGS) and all(len(line) <= 80 for line in table)  # no cell is wrapped
    assert (out / "reward_vs_weight.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "heatmap.html").read_text(encoding="utf-8")
    assert page.count('class="row"') == len(demo.PROMPTS) * (len(demo.SETTINGS) + 1)  # two objectives have a line each
    assert page.count("<img") == 3 and page.count("<h2>") == len(demo.PROMPTS) and "&lt;/s&gt;" in page
    record = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    rewards = record["mean_reward_nats_per_token"]
    for name in REWARDS:  # each reward model raises its own reward, beyond the interval
        assert rewards[name][name][0] - rewards[name][name][1] > rewards["base"][name][0]
        low, high = (record["against_weight"][name][weight] for weight in ("0.0", "1.0"))
        assert high["reward"][0] > low["reward"][0] and high["kl_to_base"][0] > low["kl_to_base"][0]


def test_an_output_folder_that_cannot_be_created_is_said_before_any_work(cli):
    cli("demo", "--output", cli.file("file", "in the way") / "out").assert_refused(1, "pass another --output")
