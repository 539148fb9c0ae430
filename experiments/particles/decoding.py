"""Answers of one setting and what is measured on each, kept in one file per setting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from experiments.particles.cells import OBJECTIVE, PROMPTS, Cell
from genarm import GenerationOutput, GuidedDecoder
from genarm.embedded import BASE, REWARDS

NEW_TOKENS = 40
BATCH = 16  # a batch runs until its longest answer ends, and on a CPU a row costs the same in any batch
Row = dict[str, Any]
Draws = dict[str, Any]  # a setting's file: rows, log-evidences, seconds
Judge = Callable[[Sequence[str]], Sequence[bool]]


def load_decoder() -> GuidedDecoder:
    """The embedded base with its reward model for art, in float32 on the CPU."""
    rewards = {OBJECTIVE: REWARDS[OBJECTIVE]}
    return GuidedDecoder.from_pretrained(
        BASE, rewards, dtype="float32", device="cpu", max_batch_size=BATCH, max_length=64
    )


def decode(decoder: GuidedDecoder, cell: Cell, number: int = 0) -> Draws:
    """One round: ``cell.systems`` systems per prompt, each with noise of its own, and ``cell.answers`` answers of each.

    Settings with equal numbers of particles share their noise, others do not.

    Returns:
        ``rows``: per answer its prompt's and its system's number, its text, tokens (EOS among them), whether it
        ended, and Σ log π_base, Σ log π_r and Σ log p(drawn) of its tokens. ``evidence``: [prompts][systems] log Ẑ.
        ``seconds``: of CPU time, all prompts and systems together.
    """
    options: dict[str, Any] = {}
    if cell.particles > 1:
        options = {
            "particles": cell.particles,
            "num_return_sequences": cell.answers,
            "length_bonus": cell.length_bonus,
            "resample_below": cell.resample_below,
        }
    started = time.process_time()
    out = decoder.generate(
        [prompt for prompt in PROMPTS for _ in range(cell.systems)],
        weights={OBJECTIVE: cell.weight},
        base_min_p=cell.base_min_p,
        max_new_tokens=NEW_TOKENS,
        seed=cell.particles + 1000 * number,
        return_logprobs=True,
        **options,
    )
    seconds = time.process_time() - started
    if out.errors:
        first = next(iter(out.errors.values()))
        raise ValueError(f"{cell.name}: {len(out.errors)} answers failed, the first by {first}")
    rows = _rows(out, cell, number)
    if cell.particles > 1:
        assert out.log_evidence is not None
        flat = out.log_evidence[:: cell.answers].tolist()  # one per answer, equal for those of one system
    else:
        flat = [log_normalizer(row, cell.weight) for row in rows]
    evidence = [flat[start : start + cell.systems] for start in range(0, len(flat), cell.systems)]
    return {"rows": rows, "evidence": evidence, "seconds": round(seconds, 3)}


def log_normalizer(row: Row, weight: float) -> float:
    """Σ log Z_t of a plain answer: what the models together say of its tokens, less what they were drawn with."""
    return float(row["base"] + weight * row["reward"] - row["drawn"])


def _rows(out: GenerationOutput, cell: Cell, number: int) -> list[Row]:
    assert out.texts is not None and out.logprobs is not None and out.model_logprobs is not None
    sums = out.model_logprobs.double().nansum(1)
    columns = {
        "text": out.texts,
        "tokens": [len(tokens) for tokens in out.tokens],
        "ended": [reason == "eos" for reason in out.finish_reasons],
        "base": sums[:, 0].tolist(),
        "reward": sums[:, 1].tolist(),
        "drawn": out.logprobs.double().nansum(1).tolist(),
    }
    systems = range(cell.systems * number, cell.systems * (number + 1))
    places = [(p, s) for p in range(len(PROMPTS)) for s in systems for _ in range(cell.answers)]
    return [
        {"prompt": prompt, "system": system, **dict(zip(columns, values, strict=True))}
        for (prompt, system), values in zip(places, zip(*columns.values(), strict=True), strict=True)
    ]


def kept(folder: Path, cell: Cell, decoder: Callable[[], GuidedDecoder], judge: Judge) -> Draws:
    """All rounds of a setting; those that the folder does not hold are decoded and judged first."""
    rounds = [one_round(folder, cell, number, decoder, judge) for number in range(cell.rounds)]
    evidence = [list(chain(*own)) for own in zip(*(draws["evidence"] for draws in rounds), strict=True)]
    return {
        "rows": [row for draws in rounds for row in draws["rows"]],
        "evidence": evidence,
        "seconds": sum(draws["seconds"] for draws in rounds),
    }


def one_round(folder: Path, cell: Cell, number: int, decoder: Callable[[], GuidedDecoder], judge: Judge) -> Draws:
    """What the folder holds of one round of a setting, decoded and judged first where it holds nothing.

    Raises:
        ValueError: it holds another number of systems.
    """
    path = folder / f"{cell.name}-round-{number}.json"
    if not path.is_file():
        draws = decode(decoder(), cell, number)
        about = judge([PROMPTS[row["prompt"]] + row["text"] for row in draws["rows"]])
        for row, said in zip(draws["rows"], about, strict=True):
            row["about"] = bool(said)
        folder.mkdir(parents=True, exist_ok=True)
        begun = path.with_suffix(".new")
        begun.write_text(json.dumps(draws), encoding="utf-8")
        begun.rename(path)
        print(f"{path.stem}: {cell.systems} systems per prompt, {draws['seconds']:.0f} s", flush=True)
    draws = json.loads(path.read_text(encoding="utf-8"))
    found = len(draws["evidence"][0])
    if found != cell.systems:
        raise ValueError(f"{path} holds {found} systems per prompt, not {cell.systems}: give another --output")
    return draws


def best_of(draws: Draws, size: int) -> Draws:
    """The answer with the largest Σ log π_r of every ``size`` plain draws of one prompt."""
    chosen = []
    for prompt in dict.fromkeys(row["prompt"] for row in draws["rows"]):
        own = [row for row in draws["rows"] if row["prompt"] == prompt]
        groups = [own[start : start + size] for start in range(0, len(own) - size + 1, size)]
        best = [max(group, key=lambda row: row["reward"]) for group in groups]
        chosen += [{**row, "system": number} for number, row in enumerate(best)]
    return {"rows": chosen, "seconds": draws["seconds"] * size * len(chosen) / len(draws["rows"])}
