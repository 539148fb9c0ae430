"""What decodes in the benchmark: this library, and what one could write with transformers instead.

A decoder takes prompts and a number of tokens n, and gives the seconds to its first token and of the n − 1 whole steps
after it. All draw from the whole distribution at one temperature, or greedily where a test compares their tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, StaticCache

from genarm import GuidedDecoder
from genarm.engine.memory import cache_bytes, slot_length
from genarm.engine.rooms import rooms_for
from genarm.engine.systems import with_particles

WEIGHT = 0.5  # every reward model's


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a call, and what it drew, [B, T + n]."""

    first: float  # to the first token
    decode: float  # of the n − 1 steps after it
    sequences: Tensor
    forwarded: int | None = None  # tokens that a model read, prompts included; of the one that read most


class Decode(Protocol):
    """One way to decode: [B, T] prompts, n tokens."""

    def __call__(self, prompts: Tensor, tokens: int, greedy: bool = False) -> Timing: ...


def finish(device: torch.device) -> float:
    """The time once everything launched has run."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Ours:
    """GuidedDecoder, timed by its own statistics. ``options`` of ``generate`` make its rows of the first prompt alone;
    without any each row has its own."""

    def __init__(
        self,
        base: Any,
        rewards: Sequence[Any],
        batch: int,
        length: int,
        temperature: float = 1.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        names = {f"r{index}": reward for index, reward in enumerate(rewards)}
        self.decoder = GuidedDecoder(base, names, max_batch_size=batch, max_length=length)
        self.weights = dict.fromkeys(names, WEIGHT)
        self.temperature, self.options = temperature, dict(options or {})

    @property
    def engine(self) -> str:
        return self.decoder.engine.kind

    def cache_bytes(self, prompts: Tensor, tokens: int) -> int:
        """Of the key-value caches of such a call that is not captured."""
        request, engine = self.decoder.prepare(*self._asked(prompts), **self._options(tokens)), self.decoder.engine
        if request.particles is not None:
            request = with_particles(request)
        rooms = rooms_for(engine.backbones, request, request.most_behind + 1)
        return cache_bytes(engine.backbones, request.batch, slot_length(request.longest, request.most_behind), rooms)

    def __call__(self, prompts: Tensor, tokens: int, greedy: bool = False) -> Timing:
        out = self.decoder.generate(*self._asked(prompts), **self._options(tokens, greedy))
        stats = out.stats
        return Timing(stats.prefill_seconds, stats.decode_seconds, out.sequences, max(stats.forwarded.values()))

    def _asked(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        prompts = prompts[:1] if self.options else prompts
        return prompts, torch.ones_like(prompts)

    def _options(self, tokens: int, greedy: bool = False) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "max_new_tokens": tokens,
            "temperature": 0.0 if greedy else self.temperature,
            "eos_token_id": [],
            "seed": 1,
            **self.options,
        }


class Stream:
    """One transformers model and its cache: dynamic and called as it is, or static and compiled."""

    def __init__(self, model: Any, length: int, compiled: bool = False, backend: str = "inductor") -> None:
        self.model = model
        self.length = length
        self.forward: Callable[..., Any] = model
        self.cache: Any = None
        self.static = compiled
        if compiled:
            mode = {"mode": "reduce-overhead"} if backend == "inductor" else {}
            self.forward = torch.compile(model.__call__, backend=backend, fullgraph=True, dynamic=False, **mode)

    def prefill(self, prompts: Tensor) -> Tensor:
        """[B, T] -> logits [B, V]. Rows that are alike are read once where the cache lets them be."""
        if self.static:
            return self._prefill_static(prompts)
        alike = bool((prompts == prompts[:1]).all())
        self.cache = DynamicCache(config=self.model.config)
        rows = prompts[:1] if alike else prompts
        logits = self.model(input_ids=rows, past_key_values=self.cache, logits_to_keep=1).logits[:, -1]
        if alike and len(prompts) > 1:
            self.cache.batch_repeat_interleave(len(prompts))
            logits = logits.repeat(len(prompts), 1)
        return logits

    def _prefill_static(self, prompts: Tensor) -> Tensor:
        # The same buffers for every call: a graph that was captured reads them where they were.
        if self.cache is None:
            self.cache = StaticCache(config=self.model.config, max_cache_len=self.length)
        self.cache.reset()
        return self.model(input_ids=prompts, past_key_values=self.cache, logits_to_keep=1).logits[:, -1]

    def step(self, tokens: Tensor) -> Tensor:
        """[B] -> logits [B, V]."""
        return self.forward(input_ids=tokens[:, None], past_key_values=self.cache).logits[:, -1]


class Loop:
    """One forward pass per model and step, each model with its own cache: the loop that one writes by hand."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = streams

    @torch.inference_mode()
    def __call__(self, prompts: Tensor, tokens: int, greedy: bool = False) -> Timing:
        started = finish(prompts.device)
        drawn = [draw([stream.prefill(prompts) for stream in self.streams], greedy)]
        first = finish(prompts.device)
        for _ in range(tokens - 1):
            if self.streams[0].static:
                torch.compiler.cudagraph_mark_step_begin()
            drawn.append(draw([stream.step(drawn[-1]) for stream in self.streams], greedy))
        last = finish(prompts.device)
        return Timing(first - started, last - first, torch.cat([prompts, torch.stack(drawn, 1)], 1))


def draw(logits: Iterable[Tensor], greedy: bool) -> Tensor:
    """One token per row. The models' normalisers are left out: no softmax sees them."""
    base, *rewards = (rows.float() for rows in logits)
    scores = base + sum(WEIGHT * rows for rows in rewards)
    return scores.argmax(-1) if greedy else torch.multinomial(scores.softmax(-1), 1)[:, 0]


class Generate:
    """transformers' generate, with or without guidance; on a static cache of ``static`` tokens it compiles the step."""

    def __init__(self, model: Any, rewards: Sequence[Stream] = (), static: int = 0) -> None:
        self.model = model
        self.rewards = rewards
        # One cache for all calls: generate would make a new one each time, and record its graphs again.
        self.cache = StaticCache(config=model.config, max_cache_len=static) if static else None

    @torch.inference_mode()
    def __call__(self, prompts: Tensor, tokens: int, greedy: bool = False) -> Timing:
        stamp = Stamp(tokens)
        processors = LogitsProcessorList([stamp])
        if self.rewards:
            processors.insert(0, Guide(self.rewards))
        sampling = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        started = finish(prompts.device)
        if self.cache is not None:
            self.cache.reset()
        sequences = self.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            past_key_values=self.cache,
            max_new_tokens=tokens,
            logits_processor=processors,
            **sampling,
        )
        return Timing(stamp.times[0] - started, stamp.times[-1] - stamp.times[0], sequences)


class Guide(LogitsProcessor):
    """Adds the reward models' scores: their own forward pass at every step, on their own caches."""

    def __init__(self, rewards: Sequence[Stream]) -> None:
        self.rewards = rewards
        self.started = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for reward in self.rewards:
            rows = reward.step(input_ids[:, -1]) if self.started else reward.prefill(input_ids)
            scores = scores + WEIGHT * rows.float()
        self.started = True
        return scores


class Stamp(LogitsProcessor):
    """The times of the first and the last draw: n − 1 whole steps lie between them, without what generate prepares."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.calls = 0
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        if self.calls in (1, self.tokens):
            self.times.append(finish(scores.device))
        return scores
