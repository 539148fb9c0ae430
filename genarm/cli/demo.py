"""`genarm demo`: the main job on the models that ship with the library, for people to look at."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import embedded
from ..decoder import GuidedDecoder
from ..errors import GenARMError
from ..evaluation.heatmap import TokenRewards, View, coloured, heatmap_html, scale_of, token_rewards
from ..evaluation.trade_off import (
    WeightPoint,
    distinct_share,
    draw_trade_off,
    mean_and_interval,
    trade_off_pictures,
)
from ..request.output import GenerationOutput

PROMPTS = ("I really enjoy", "On a free day I", "The most important thing in life is")
SETTINGS: dict[str, dict[str, float]] = {
    "base": {},
    "art": {"art": 1.0},
    "science": {"science": 1.0},
    "agreeableness": {"agreeableness": 1.0},
    "risk": {"risk": 1.0},
    "art + risk": {"art": 0.7, "risk": 0.7},
}
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
COPIES = 16  # texts per prompt and setting
SWEEP_COPIES = 8
BATCH = 96
NEW_TOKENS = 40
WHY_SLOW = (
    "These models are tiny, so that the time goes into arithmetic and overhead, and five models cost up to five times "
    "one. With a base of billions of parameters it goes into reading the weights, which all models share: there a "
    "reward model adds little."
)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The texts of one run, by setting, and the tokens per second at which they were decoded."""

    texts: dict[str, list[TokenRewards]]
    tokens_per_second: float


def run_demo(output: Path, seed: int = 0, device: str = "auto", console: Console | None = None) -> None:
    """Guide the embedded base with its four reward models; print the texts and tables, write a page and a plot.

    Writes ``heatmap.html``, ``reward_vs_weight.png`` and ``demo.json`` into ``output``. Raises GenARMError if that
    folder cannot be written.
    """
    console = console or Console()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GenARMError(f"{output}: cannot be created ({error}): pass another --output") from None
    started = time.perf_counter()
    with _progress(console) as say:
        say("loading the embedded models")
        rewards = {name: str(path) for name, path in embedded.REWARDS.items()}
        decoder = GuidedDecoder.from_pretrained(embedded.BASE, rewards, device=device, max_batch_size=BATCH)
        plain = GuidedDecoder(decoder.base_model, tokenizer=decoder.tokenizer, max_batch_size=BATCH)
        say("decoding the base alone")
        alone = sample(plain, {"base": {}}, seed, COPIES)
        say("decoding each reward model, and two mixed")
        settings = sample(decoder, SETTINGS, seed, COPIES)
        curves = {}
        for name, path in rewards.items():
            say(f"decoding a sweep over weights: {name}")
            curves[name] = sweep(decoder, name, path, seed + 1)
    _show_texts(console, settings.texts)
    summary = _show_rewards(console, settings.texts)
    console.print(
        f"{settings.tokens_per_second:.0f} tokens/s guided by four reward models, {alone.tokens_per_second:.0f} plain, "
        f"in batches of up to {BATCH} on {decoder.device}. {WHY_SLOW}"
    )
    _write(console, output, settings, curves, summary, alone.tokens_per_second)
    console.print(
        f"drawn at temperature 1 with base_min_p = {embedded.BASE_MIN_P}; done in {time.perf_counter() - started:.0f} s"
    )


def sample(decoder: GuidedDecoder, settings: dict[str, dict[str, float]], seed: int, copies: int) -> Sampled:
    """``copies`` texts per prompt and setting, in one call with weights per row; other rewards score with weight 0."""
    rows = [(name, prompt) for name in settings for prompt in PROMPTS for _ in range(copies)]
    weights = [{name: settings[row].get(name, 0.0) for name in decoder.reward_names} for row, _ in rows]
    encoded: list[list[int]] = [decoder.tokenizer(prompt)["input_ids"] for _, prompt in rows]
    out: GenerationOutput = decoder.generate(
        encoded,
        weights=weights,
        max_new_tokens=NEW_TOKENS,
        base_min_p=embedded.BASE_MIN_P,
        seed=seed,
        return_logprobs=True,
    )
    found = token_rewards(out, decoder.tokenizer, [name for name, _ in rows], [prompt for _, prompt in rows])
    texts = {name: [row for row in found if row.title == name] for name in settings}
    return Sampled(texts, out.stats.tokens_per_second)


def sweep(decoder: GuidedDecoder, name: str, path: str, seed: int) -> dict[float, WeightPoint]:
    """What texts guided by one reward model alone are like, at each weight of SWEEP."""
    alone = GuidedDecoder(decoder.base_model, {name: path}, decoder.tokenizer, max_batch_size=BATCH)
    texts = sample(alone, {str(weight): {name: weight} for weight in SWEEP}, seed, SWEEP_COPIES).texts
    return {weight: _point(texts[str(weight)], name) for weight in SWEEP}


def _point(rows: list[TokenRewards], name: str) -> WeightPoint:
    rewards, divergences = [row.mean_reward(name) for row in rows], [row.divergence() for row in rows]
    return WeightPoint(rewards, divergences, distinct_share([row.text for row in rows]))


def _views(texts: dict[str, list[TokenRewards]]) -> list[View]:
    """The first text of each prompt under each setting, once per reward model of the setting; the base's by the first
    of all."""
    return [
        (next(row for row in rows if row.prompt == prompt), reward)
        for prompt in PROMPTS
        for name, rows in texts.items()
        for reward in (SETTINGS[name] or list(embedded.REWARDS)[:1])
    ]


def _show_texts(console: Console, texts: dict[str, list[TokenRewards]]) -> None:
    """One table per prompt; a text is coloured by its setting's first reward model."""
    views = _views(texts)
    scale = scale_of(views)
    for prompt in PROMPTS:
        table = Table(title=escape(f"“{prompt} …”"), title_justify="left", show_lines=False, expand=True)
        table.add_column("setting", no_wrap=True)
        table.add_column("text", ratio=1)
        seen: set[str] = set()
        for row, reward in views:
            if row.prompt == prompt and row.title not in seen:
                seen.add(row.title)
                table.add_row(row.title, coloured(row, reward, scale))
        console.print(table)
    console.print(
        "Each token is coloured by log π_r − log π_base, the base's by art: blue and underlined above the median of "
        "these texts, orange below it.\n"
    )


def _show_rewards(console: Console, texts: dict[str, list[TokenRewards]]) -> dict[str, dict[str, list[float]]]:
    """The base's mean reward by each reward model, and how each setting changes it."""
    names, count = list(embedded.REWARDS), len(PROMPTS) * COPIES
    summary = {
        setting: {name: list(mean_and_interval([row.mean_reward(name) for row in rows])) for name in names}
        for setting, rows in texts.items()
    }
    table = Table(
        title="mean reward, log π_r in nats per token, as change against the base",
        caption=f"± is half a 95% interval; {count} texts per setting",
    )
    table.add_column("setting")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for setting in texts:
        cells = [_cell(summary, setting, name) for name in names]
        table.add_row("base, itself" if setting == "base" else setting, *cells, end_section=setting == "base")
    console.print(table)
    return summary


def _cell(summary: dict[str, dict[str, list[float]]], setting: str, name: str) -> str:
    (own, own_half), (mean, half) = summary["base"][name], summary[setting][name]
    if setting == "base":
        return f"{own:.1f} ± {own_half:.1f}".replace("-", "−")
    text = f"{mean - own:+.1f} ± {math.hypot(half, own_half):.1f}".replace("-", "−")
    return f"[bold]{text}[/]" if name in SETTINGS[setting] else text


def _write(
    console: Console,
    output: Path,
    settings: Sampled,
    curves: dict[str, dict[float, WeightPoint]],
    summary: dict[str, dict[str, list[float]]],
    plain_tokens_per_second: float,
) -> None:
    record = {
        "prompts": PROMPTS,
        "settings": SETTINGS,
        "base_min_p": embedded.BASE_MIN_P,
        "mean_reward_nats_per_token": summary,
        "against_weight": {name: {str(w): _record(point) for w, point in c.items()} for name, c in curves.items()},
        "tokens_per_second": {"guided": settings.tokens_per_second, "plain": plain_tokens_per_second},
        "texts": {name: [row.prompt + row.text for row in rows] for name, rows in settings.texts.items()},
    }
    (output / "demo.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    plot, pictures = output / "reward_vs_weight.png", {}
    try:
        draw_trade_off(curves, plot)
        pictures = trade_off_pictures(curves)
    except GenARMError as error:
        console.print(f"[yellow]{escape(str(error))}[/]")
    else:
        console.print(f"plot of reward, KL and variety against weight: {plot}")
    page = output / "heatmap.html"
    html = heatmap_html(_views(settings.texts), "Guided by the embedded reward models", "base", pictures)
    page.write_text(html, encoding="utf-8")
    console.print(f"page of texts coloured by their token rewards: {page}")


def _record(point: WeightPoint) -> dict[str, object]:
    return {
        "reward": mean_and_interval(point.rewards),
        "kl_to_base": mean_and_interval(point.divergences),
        "distinct_word_pairs": point.distinct,
    }


class _progress:
    """A spinner with what is being done and for how long; nothing where the console is not a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> Callable[[str], None]:
        self.progress.start()
        task = self.progress.add_task("starting")
        return lambda text: self.progress.update(task, description=text)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
