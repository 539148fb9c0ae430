"""What the decoding suite measures: a case's contenders (decode_cases.py) timed in turn, round by round."""

from __future__ import annotations

import gc
import statistics
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.decode_cases import ACTIVATED, OF_ONE_PROMPT, PLAIN, Case, Contender
from bench.decode_models import Family, StepBytes, family, step_bytes
from bench.decode_peers import Decode, Generate, Loop, Ours, Stream, Timing
from bench.measure import DEVICE, GPU
from bench.step_counts import Launches, launches, per_step
from genarm.cli.bench import rotate
from genarm.errors import CacheMemoryError
from genarm.models.fused.native import steps_in_c
from genarm.models.fused.prefixes import SHORTEST

WARMUP_TOKENS, COMPILED_WARMUPS = 3, 3


@dataclass(slots=True)
class Measured:
    """What a case came to: rounds of timings, and why what is missing is missing."""

    case: Case
    rounds: list[dict[Contender, Timing]] = field(default_factory=list)
    floors: dict[Contender, StepBytes] = field(default_factory=dict)
    caches: dict[Contender, int] = field(default_factory=dict)  # bytes
    engines: dict[Contender, str] = field(default_factory=dict)
    busy: dict[Contender, float] = field(default_factory=dict)
    launches: dict[Contender, Launches] = field(default_factory=dict)
    too_large: set[Contender] = field(default_factory=set)
    failed: dict[Contender, str] = field(default_factory=dict)

    def step_seconds(self, contender: Contender) -> list[float]:
        """Of one step, round by round."""
        return [timings[contender].decode / (self.case.tokens - 1) for timings in self.rounds]

    def first_seconds(self, contender: Contender) -> float:
        return statistics.median(timings[contender].first for timings in self.rounds)

    def first_ratio(self, contender: Contender) -> float | None:
        """Its time to the first token over plain decoding's."""
        if not self.rounds or PLAIN not in self.rounds[0]:
            return None
        return statistics.median(timings[contender].first / timings[PLAIN].first for timings in self.rounds)

    def prompts_read(self, contender: Contender) -> float | None:
        """How many prompts each model read, by its count of tokens; None for what does not count them."""
        forwarded = self.rounds[0][contender].forwarded
        new = self.case.batch * (self.case.tokens - 1)
        return None if forwarded is None else (forwarded - new) / self.case.context

    def ratios(self, contender: Contender, over: Contender) -> list[float] | None:
        """The contender's time over another's, round by round."""
        if not self.rounds or over not in self.rounds[0]:
            return None
        pairs = zip(self.step_seconds(contender), self.step_seconds(over), strict=True)
        return [own / other for own, other in pairs]

    def host_gap(self, contender: Contender) -> float | None:
        """The share of a step in which the device had nothing to do; None where it was not measured."""
        if contender not in self.busy:
            return None
        return max(0.0, 1 - self.busy[contender] / statistics.median(self.step_seconds(contender)))


@lru_cache(maxsize=1)
def measured(case: Case, dtype: torch.dtype) -> Measured:
    """Warm every contender up, then time them in turn. The last case's result is kept."""
    release()
    found = Measured(case)
    models = family(case.model, dtype, DEVICE)
    found.floors = floors(models, case)
    decoders = build(models, case)
    for contender, decode in decoders.items():
        if isinstance(decode, Ours):
            found.engines[contender] = decode.engine
    prompts = torch.randint(3, models.base.config.vocab_size, (case.prompts, case.context), device=DEVICE)
    prompts = prompts.repeat(case.batch // case.prompts, 1)
    ready = {}
    for contender, decode in decoders.items():
        try:
            _warm_up(contender, decode, prompts, case.tokens)
            ready[contender] = decode
            if isinstance(decode, Ours):
                found.caches[contender] = decode.cache_bytes(prompts, case.tokens)
        except (torch.OutOfMemoryError, CacheMemoryError):
            found.too_large.add(contender)
        except Exception:  # one peer's failure is not the others'
            found.failed[contender] = traceback.format_exc()
    calls = {contender: lambda decode=decode: decode(prompts, case.tokens) for contender, decode in ready.items()}
    found.rounds = rotate(calls, case.rounds) if calls else []
    if GPU:
        for contender, decode in ready.items():
            found.busy[contender], launched = profiled(decode, prompts, case.tokens)
            if isinstance(decode, Ours):
                found.launches[contender] = launches(case, contender, decode, prompts, launched)
    return found


def release() -> None:
    """Free what earlier cases held. What conftest.py froze is looked at again: models are in reference cycles."""
    gc.unfreeze()
    torch.compiler.reset()
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()


def floors(models: Family, case: Case) -> dict[Contender, StepBytes]:
    """Bytes of each contender's step, at the mean context of the steps."""
    context = case.context + case.tokens / 2
    separate = case.rewards == "separate"
    return {
        one: step_bytes(models, one.K, separate, case.batch, context, _held_once(one, case, models.base.dtype))
        for one in case.contenders
    }


def _held_once(contender: Contender, case: Case, dtype: torch.dtype) -> tuple[int, int]:
    """How many prompts of how many tokens a contender reads once for several rows."""
    if contender.way == ACTIVATED:  # but the last token
        return case.prompts, case.context - 1
    if contender.way in OF_ONE_PROMPT and case.context >= SHORTEST and steps_in_c(dtype, torch.device(DEVICE)):
        return contender.K + 1, case.context
    return 0, 0


def build(models: Family, case: Case, backend: str = "inductor") -> dict[Contender, Decode]:
    """Every contender of a case that runs here. Peers get reward models merged into weights of their own, so that
    nobody pays for applying adapters; they share them, and the base, with each other."""
    length = case.context + case.tokens + 1
    merged = cache(models.merged)

    def streams(count: int, compiled: bool) -> list[Stream]:
        return [Stream(merged(index), length, compiled, backend) for index in range(count)]

    decoders: dict[Contender, Decode] = {}
    for contender in case.contenders:
        if missing(contender):
            continue
        K, compiled = contender.K, contender.compiled
        if contender.is_ours:
            made = merged if case.rewards == "separate" else models.adapter
            if contender.way == ACTIVATED:
                made = models.activated
            of_one = OF_ONE_PROMPT.get(contender.way)
            options = None if of_one is None else of_one(case.batch)
            rewards = [made(index) for index in range(K)]
            decoders[contender] = Ours(models.base, rewards, case.batch, length, case.temperature, options)
        elif contender.way.startswith("loop"):
            decoders[contender] = Loop([Stream(models.base, length, compiled, backend), *streams(K, compiled)])
        else:
            decoders[contender] = Generate(models.base, streams(K, compiled), static=length if compiled else 0)
    return decoders


def missing(contender: Contender) -> str | None:
    """Why a contender cannot be measured here, if it cannot."""
    if contender.compiled and not GPU:
        return "generate compiles on a CUDA device only, and its graphs are CUDA's"
    return None


def _warm_up(contender: Contender, decode: Decode, prompts: Tensor, tokens: int) -> None:
    """A call as it will be timed, short on a CPU where its length fixes nothing; a compiled one as often as it takes to
    compile and to capture."""
    for _ in range(COMPILED_WARMUPS if contender.compiled else 1):
        decode(prompts, tokens if GPU else WARMUP_TOKENS)


def profiled(decode: Decode, prompts: Tensor, tokens: int) -> tuple[float, float]:
    """Seconds of a step in which at least one kernel or copy ran on the device, and how many did.

    The profiler slows the host down, not the kernels: the step's own length is taken without it.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        timing = decode(prompts, tokens)
    intervals = [
        (event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in profiler.events() or []
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    stop = max(end for _, end in intervals)
    # The steps are the end of the call, by its own clock.
    since = stop - timing.decode
    return covered(intervals, since) / (tokens - 1), per_step((start for start, _ in intervals), since, tokens - 1)


def covered(intervals: Iterable[tuple[float, float]], since: float = float("-inf")) -> float:
    """The length of a union of intervals, from ``since`` on."""
    total, reached = 0.0, since
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total
