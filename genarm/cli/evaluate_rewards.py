"""`genarm evaluate rewards`: token rewards of given pairs as one page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import InvalidArgumentError
from ..evaluation.choices import base_path, parse_choices
from ..evaluation.heatmap import ScoredPair, Sides, pairs_html, scored_pairs
from ..evaluation.precision import scoring_dtype
from ..evaluation.scorers import causal_models, fitting_length, quiet
from ..models.options import Source, resolve_device
from ..preferences.chat import pair_tokenizer
from ..preferences.encoding import Encoded, encode_pairs
from ..preferences.pairs import PreferencePair, read_pairs
from ..preferences.reading import PairReading, conditions
from ..preferences.scoring import token_rewards
from .console import say

BATCH = 16


@dataclass(frozen=True, slots=True)
class RewardsOptions:
    """The command line of `genarm evaluate rewards`."""

    output: Path
    base: str | None = None
    rewards: Sequence[str] = ()
    reward_bases: Sequence[str] = ()
    data: str | None = None
    where: Sequence[str] = ()
    reading: PairReading = field(default_factory=PairReading)
    limit: int = 20
    prompt: str = ""
    chosen: str | None = None
    rejected: str | None = None
    max_length: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False


def run(options: RewardsOptions, console: Console) -> int:
    """Score the pairs, write the page, say what the reward models make of them; the exit status.

    Raises:
        GenARMError: options, pairs or models that cannot be used.
    """
    choices, base = parse_choices(options.rewards, reward_bases=options.reward_bases), base_path(options.base)
    if not choices:
        raise InvalidArgumentError(
            "there is no reward model to show: give --reward NAME=PATH, or an embedded one's name"
        )
    pairs = _pairs(options)
    options.output.touch()
    device = resolve_device(options.device)
    source = Source(
        scoring_dtype(options.dtype, device, [base, *(choice.path for choice in choices)], say),
        device,
        options.trust_remote_code,
    )
    with quiet():
        max_length = fitting_length(base, options.max_length, options.trust_remote_code)
        tokenizer = pair_tokenizer(base, options.trust_remote_code)
        encoded = encode_pairs(tokenizer, pairs, max_length)
        if not encoded.pairs:
            raise InvalidArgumentError(f"no pair is left: {encoded.truncation.summary()}")
        logs: dict[str, list[Sides]] = {}
        for loaded in causal_models(base, choices, source, tokenizer):
            if loaded.choice.kind != "base" or loaded.base == base:
                progress = sys.stderr.isatty()
                pad = tokenizer.pad_token_id
                rows = token_rewards(loaded.model, encoded.pairs, pad, BATCH, progress, loaded.asleep)
                logs[loaded.choice.name] = rows
    rewards = {choice.name: logs[choice.name] for choice in choices}
    scored = scored_pairs(tokenizer, encoded.pairs, _titles(encoded), logs["base"], rewards)
    options.output.write_text(pairs_html(scored, "Token rewards, pair by pair"), encoding="utf-8")
    _say(options, scored, encoded, console)
    return 0


def _pairs(options: RewardsOptions) -> list[PreferencePair]:
    given = [text for text in (options.chosen, options.rejected) if text is not None]
    if options.data is not None:
        if given:
            raise InvalidArgumentError("--data and --chosen or --rejected were both given: choose one of them")
        return read_pairs(options.data, conditions(options.where), options.reading, options.limit)
    if len(given) < 2:
        raise InvalidArgumentError("there is no pair to show: give --data FILE, or --chosen TEXT and --rejected TEXT")
    chosen, rejected = given
    if not (chosen and rejected) or chosen == rejected:
        raise InvalidArgumentError("--chosen and --rejected are empty or the same: give two texts that differ")
    return [PreferencePair(options.prompt, chosen, rejected)]


def _titles(encoded: Encoded) -> list[str]:
    return [f"Pair {row + 1}" for row in encoded.kept]


def _say(options: RewardsOptions, pairs: Sequence[ScoredPair], encoded: Encoded, console: Console) -> None:
    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    for name in pairs[0].chosen.rewards:
        right: list[Any] = [pair for pair in pairs if pair.margin(name) > 0]
        line(f"{name}: {len(right)} of {len(pairs)} pairs ordered right by the summed reward")
    if any(asdict(encoded.truncation).values()):
        line(encoded.truncation.summary())
    for note in encoded.notes:
        line(note)
    line(f"token rewards: {options.output}")
