"""`genarm bench`: what guidance costs. Plain and guided decoding with one base, in turn in one process."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.utils import logging as transformers_logging

from ..decoder import GuidedDecoder
from ..models.sources import RewardChoice, model_path, parse_rewards
from ..request.output import GenerationStats
from . import info

PLAIN = "plain"
TRACED_TOKENS = 9
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The command line of `genarm bench`."""

    base: str | None = None
    rewards: Sequence[str] = ()
    batch_size: int = 1
    context: int = 256
    new_tokens: int = 33
    rounds: int = 5
    dtype: str = "auto"
    device: str = "auto"
    trace: Path | None = None
    output: Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What a way of decoding took: medians over the rounds, and of the rounds' ratios to plain decoding."""

    name: str
    engine: str
    ms_per_token: float
    tokens_per_second: float  # all rows together
    ratio: float
    first_token_ms: float


def rotate(contenders: Mapping[str, Callable[[], Result]], rounds: int) -> list[dict[str, Result]]:
    """Call every contender once per round, each round starting with the next, so that none always follows the same."""
    names = list(contenders)
    found = []
    for turn in range(rounds):
        start = turn % len(names)
        found.append({name: contenders[name]() for name in names[start:] + names[:start]})
    return found


def run(options: BenchOptions, console: Console) -> int:
    """Measure, print a table, write what was asked for; the exit status.

    Raises:
        GenARMError: a model cannot be loaded, or the context and new tokens do not fit it.
    """
    decoders = _load(options)
    prompts = _prompts(decoders[PLAIN], options)
    if options.output is not None:  # a place that cannot be written shows before the minutes are spent
        options.output.touch()
    costs = measure(decoders, prompts, options.new_tokens, options.rounds)
    show(costs, decoders, options, console)
    if options.output is not None:
        record = {"settings": _settings(options), **info.collect().as_dict(), "costs": [asdict(cost) for cost in costs]}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    if options.trace is not None:
        name, decoder = list(decoders.items())[-1]
        tokens = min(TRACED_TOKENS, options.new_tokens)
        trace(decoder, prompts, tokens, options.trace)
        console.print(f"a trace of {name} decoding, {tokens} tokens, is in {options.trace}", soft_wrap=True)
    return 0


def measure(decoders: Mapping[str, GuidedDecoder], prompts: Tensor, new_tokens: int, rounds: int) -> list[Cost]:
    """The cost of each decoder, the first of which is plain decoding; all rows draw ``new_tokens`` tokens."""
    for decoder in decoders.values():
        _generate(decoder, prompts, new_tokens)  # as long as those that count: a GPU prepares for a length
    contenders = {
        name: lambda decoder=decoder: _generate(decoder, prompts, new_tokens) for name, decoder in decoders.items()
    }
    found: list[dict[str, GenerationStats]] = rotate(contenders, rounds)
    steps = new_tokens - 1
    plain = [stats[PLAIN].decode_seconds for stats in found]
    costs = []
    for name in decoders:
        seconds = [stats[name].decode_seconds for stats in found]
        step = statistics.median(seconds) / steps
        costs.append(
            Cost(
                name=name,
                engine=found[0][name].engine,
                ms_per_token=step * 1e3,
                tokens_per_second=len(prompts) / step,
                ratio=statistics.median(own / base for own, base in zip(seconds, plain, strict=True)),
                first_token_ms=statistics.median(stats[name].prefill_seconds for stats in found) * 1e3,
            )
        )
    return costs


def show(costs: Sequence[Cost], decoders: Mapping[str, GuidedDecoder], options: BenchOptions, console: Console) -> None:
    """Print a table, and under it what was measured."""
    table = Table("decoding", "engine")
    for column in ("ms per token", "tokens/s", "ratio", "first token, ms"):
        table.add_column(column, justify="right")
    for cost in costs:
        figures = (f"{cost.ms_per_token:.2f}", f"{cost.tokens_per_second:,.1f}", f"{cost.ratio:.3f}")
        table.add_row(cost.name, cost.engine, *figures, f"{cost.first_token_ms:.1f}")
    console.print(table)
    rewards = ", ".join(list(decoders.values())[-1].reward_names)
    shape = f"batch {options.batch_size}, context {options.context}, {options.new_tokens} new tokens"
    guided = f"guided by {rewards}; " if rewards else ""
    console.print(f"{guided}{shape}, {options.rounds} rounds", soft_wrap=True, highlight=False)


def trace(decoder: GuidedDecoder, prompts: Tensor, new_tokens: int, path: Path) -> None:
    """One call under torch.profiler, as a trace for chrome://tracing or ui.perfetto.dev."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if decoder.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    _generate(decoder, prompts, new_tokens)
    with profile(activities=activities) as profiler:
        _generate(decoder, prompts, new_tokens)
    profiler.export_chrome_trace(str(path))


def _load(options: BenchOptions) -> dict[str, GuidedDecoder]:
    """Plain decoding, and guided where there is a reward model, on the same base."""
    base, rewards = model_path(options.base), _rewards(options)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    sizes: dict[str, Any] = {"max_batch_size": options.batch_size, "max_length": options.context + options.new_tokens}
    guided = GuidedDecoder.from_pretrained(
        base,
        {reward.name: reward.path for reward in rewards},
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        **sizes,
    )
    if not rewards:
        return {PLAIN: guided}
    plain = GuidedDecoder(guided.base_model, tokenizer=guided.tokenizer, **sizes)
    return {PLAIN: plain, "guided": guided}


def _rewards(options: BenchOptions) -> list[RewardChoice]:
    """With nothing named at all, the embedded base is guided by one of its own."""
    return parse_rewards(options.rewards or (("art",) if options.base is None else ()))


def _prompts(decoder: GuidedDecoder, options: BenchOptions) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    high = min(model.input_vocab_size for model in decoder.models)
    shape = (options.batch_size, options.context)
    return torch.randint(0, high, shape, generator=generator).to(decoder.device)


def _generate(decoder: GuidedDecoder, prompts: Tensor, new_tokens: int) -> GenerationStats:
    mask = torch.ones_like(prompts)
    return decoder.generate(prompts, mask, max_new_tokens=new_tokens, eos_token_id=[], seed=1).stats


def _settings(options: BenchOptions) -> dict[str, Any]:
    settings = asdict(options)
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
