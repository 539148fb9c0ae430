"""What a reward model's guidance is worth where the base is unsure, where it is sure, and anywhere (docs/guidance.md).

    python -m experiments.gates --out bench/results/cpu/gates.json --picture docs/gates.png

Texts of the embedded base guided by one of its reward models: by thresholds on the base's entropy, and on its top
probability; on tokens chosen at random, as a control; and on every token with smaller weights, the plainest way to
guide less.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from experiments.embedded.__main__ import environment
from genarm import GenerationOutput, GuidedDecoder
from genarm.embedded import BASE, REWARDS
from genarm.engine import draw
from genarm.evaluation.plots import COLOURS, MARKERS, new_figure, open_frame
from genarm.evaluation.trade_off import mean_and_interval

PROMPTS = ("I really enjoy", "On weekends I like to", "My friends would say that")
NEW_TOKENS = 24
BATCH = 96
WEIGHT = 1.0
# A way of guiding less -> its settings, from little guidance to much.
WAYS: dict[str, tuple[float, ...]] = {
    "entropy": (5.0, 4.0, 3.0, 2.0, 1.0),
    "top_probability": (0.1, 0.2, 0.4, 0.6, 0.9),
    "random": (0.1, 0.3, 0.5, 0.7, 0.9),
    "weight": (0.1, 0.2, 0.4, 0.6, 0.8),
}
NAMES = {
    "entropy": "where the base's entropy is high",
    "top_probability": "where its top probability is low",
    "random": "tokens chosen at random",
    "weight": "every token, smaller weights",
}


@contextmanager
def at_random(share: float, seed: int) -> Iterator[None]:
    """Gates that guide a share of the tokens, whatever the base says of them."""
    generator = torch.Generator().manual_seed(seed)

    def chosen(logits: Tensor, _gate: Tensor, _vocab_size: int) -> Tensor:
        return torch.rand(len(logits), generator=generator) < share

    with patch.object(draw, "guided_rows", chosen):
        yield


def write(decoder: GuidedDecoder, way: str, setting: float, copies: int, seed: int) -> GenerationOutput:
    """``copies`` texts for each prompt."""
    name = decoder.reward_names[0]
    call: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "seed": seed, "return_logprobs": True}
    weight = setting if way == "weight" else WEIGHT
    call |= {"weights": {name: weight}, "num_return_sequences": copies}
    if way == "random":
        with at_random(setting, seed):
            return decoder.generate(list(PROMPTS), guide_when={"top_probability": 0.5}, **call)
    gate: Any = {} if way == "weight" else {"guide_when": {way: setting}}
    return decoder.generate(list(PROMPTS), **gate, **call)


def figures(out: GenerationOutput) -> dict[str, Any]:
    """The share of the tokens that were guided, and with 95% intervals over texts, in nats per token, the mean of
    log π_r and the estimate of KL(p ‖ π_base)."""
    assert out.logprobs is not None and out.model_logprobs is not None
    rewards = out.model_logprobs[..., 1].double().nanmean(1)
    divergences = (out.logprobs - out.model_logprobs[..., 0]).double().nanmean(1)
    guided = out.stats.guided_tokens
    return {
        "share": 1.0 if guided is None else guided / out.stats.new_tokens,
        "reward": mean_and_interval(rewards.tolist()),
        "kl": mean_and_interval(divergences.tolist()),
        "texts": len(out.tokens),
    }


def measure(reward: str, copies: int, seed: int = 0) -> dict[str, Any]:
    """All ways at all their settings, and the two ends that they share."""
    started = time.perf_counter()
    decoder = GuidedDecoder.from_pretrained(BASE, {reward: REWARDS[reward]}, device="cpu", max_batch_size=BATCH)
    ends = {str(weight): figures(write(decoder, "weight", weight, copies, seed)) for weight in (0.0, WEIGHT)}
    ways = {
        way: {str(setting): figures(write(decoder, way, setting, copies, seed)) for setting in settings}
        for way, settings in WAYS.items()
    }
    return {
        "command": "python -m experiments.gates --out bench/results/cpu/gates.json --picture docs/gates.png",
        "environment": environment(),
        "seconds": round(time.perf_counter() - started, 1),
        "reward_model": reward,
        "weight": WEIGHT,
        "new_tokens": NEW_TOKENS,
        "ends": ends,
        "ways": ways,
    }


def lines(result: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Each way's points from no guidance to all of it."""
    nothing, everything = ({**result["ends"][str(weight)]} for weight in (0.0, result["weight"]))
    nothing["share"] = 0.0
    return {way: [nothing, *points.values(), everything] for way, points in result["ways"].items()}


def draw_gates(result: Mapping[str, Any], path: Path) -> None:
    """Reward and KL against the share of guided tokens, and reward against KL, as a PNG at ``path``."""
    figure = new_figure(13.0, 4.4)
    panels = figure.subplots(1, 3)
    reward, divergence = "mean log π_r, nats per token", "KL to the base, nats per token"
    for number, (way, points) in enumerate(lines(result).items()):
        look = {"color": COLOURS[number], "marker": MARKERS[number], "label": NAMES[way], "markersize": 4}
        if way != "weight":
            for axes, name in zip(panels, ("reward", "kl"), strict=False):
                _line(axes, points, "share", name, look)
        _line(panels[2], points, "kl", "reward", look)
    names = (("share of tokens guided", reward), ("share of tokens guided", divergence), (divergence, reward))
    for axes, (x, y) in zip(panels, names, strict=True):
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.3)
        open_frame(axes)
    panels[2].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path)


def _line(axes: Any, points: Sequence[Mapping[str, Any]], x: str, y: str, look: Mapping[str, Any]) -> None:
    places = [point[x] if x == "share" else point[x][0] for point in points]
    values, halves = zip(*(point[y] for point in points), strict=True)
    axes.errorbar(places, values, halves, capsize=2, elinewidth=0.8, linewidth=1.2, **look)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", choices=REWARDS, default="art")
    parser.add_argument("--copies", type=int, default=32, help="texts for each of three prompts (default: 32)")
    parser.add_argument("--out", type=Path, required=True, help="the figures, as JSON")
    parser.add_argument("--picture", type=Path, required=True, help="the plot, as PNG")
    options = parser.parse_args()
    result = measure(options.reward, options.copies)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw_gates(result, options.picture)
    for way, points in lines(result).items():
        cells = (f"{one['share']:.0%}: {one['reward'][0]:.2f} at KL {one['kl'][0]:.2f}" for one in points)
        print(f"{NAMES[way]}: {'; '.join(cells)}")
    print(f"{result['seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
